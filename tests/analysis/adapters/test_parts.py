"""Keys of saved adapters become submodules, and are counted."""

import numpy as np
import pytest

from analysis.adapters.parts import parameter_counts, submodules
from tests.analysis.synthetic_run import MODULES, RANK, hydralora_state, lora_state


def test_lora_keys_become_submodules():
    parts = submodules(lora_state(0, 0), "qa")
    assert [(p.head, p.layer, p.module, p.matrix) for p in parts[:2]] == [
        ("qa", 0, "mlp.down_proj", "A"),
        ("qa", 0, "mlp.down_proj", "B"),
    ]
    assert len(parts) == 4 * len(MODULES) * 2
    assert {p.rows.shape for p in parts if p.module == "self_attn.v_proj"} == {(RANK, 48), (RANK, 16)}


@pytest.mark.parametrize("key", ["h.11.attn.c_attn.lora_A.default.weight", "model.decoder.layers.11.fc1.lora_A.weight"])
def test_other_names_of_layers_are_read(key: str):
    state = {key: np.ones((2, 6)), key.replace("lora_A", "lora_B"): np.ones((5, 2))}
    assert [p.place for p in submodules(state, "x")] == [(11, key.split("11.")[1].split(".lora")[0])] * 2


def test_hydralora_columns_become_experts_and_the_last_is_the_shared_one():
    state = hydralora_state(3, shared=True, n_layers=1)
    parts = [p for p in submodules(state, "hydralora", shared_expert=True) if p.module == "self_attn.q_proj"]
    assert [p.head for p in parts] == ["hydralora", "expert 0", "expert 1", "expert 2", "shared expert"]
    b = next(v for k, v in state.items() if "q_proj.hydralora_B" in k)
    np.testing.assert_array_equal(parts[2].rows, b[:, RANK : 2 * RANK].T)


def test_parameters_are_counted_by_part():
    n_in, n_out = (sum(sizes[i] for sizes in MODULES.values()) for i in (0, 1))
    assert parameter_counts(hydralora_state(3, n_layers=2)) == {
        "A": 2 * RANK * n_in,
        "B": 2 * 3 * RANK * n_out,
        "router": 2 * 3 * RANK * len(MODULES),
    }


def test_states_that_are_no_adapter_are_refused():
    with pytest.raises(ValueError, match=r"expected keys such as .*, got \['weight'\]"):
        submodules({"weight": np.ones(3)}, "x")
    with pytest.raises(ValueError, match="expected both A and B, got lora_A"):
        submodules({"layers.0.q.lora_A.weight": np.ones((2, 3))}, "x")
    state = {"layers.0.q.hydralora_A.weight": np.ones((2, 3)), "layers.0.q.hydralora_B.weight": np.ones((4, 5))}
    with pytest.raises(ValueError, match="blocks of r = 2, got 5 columns"):
        submodules(state, "x")
