import numpy as np
import polars as pl
import pytest
from matplotlib.text import Text
from sklearn.metrics import silhouette_score

from analysis.adapters.breakdown import ComponentAdapter, break_down
from analysis.adapters.observation_two import (
    EXPERTS,
    FROM_START,
    OTHER_SEED,
    SAME_SEED,
    SEED_CONTROL,
    UNTRAINED,
    observation_two,
)
from analysis.adapters.parts import OUTSIDE, parameter_counts, submodules
from analysis.adapters.permutation import matching, p_value, separability, sign_flip_p_value
from analysis.adapters.projection import distances, embed, gram
from analysis.adapters.subspace import (
    cosine,
    effective_rank,
    linear_cka,
    orthonormal_rows,
    principal_cosines,
    relative_distance,
    subspace_similarity,
)
from analysis.figures.breakdown import layer_maps, similarity_by_layer
from tests.analysis.synthetic_run import MODULES, RANK, components, hydralora_state, lora_state


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return subspace_similarity(principal_cosines(orthonormal_rows(a), orthonormal_rows(b)))


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


def test_principal_angles_by_hand():
    angle = np.pi / 6
    a = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    b = np.array([[3.0, 0, 0, 0], [0, np.cos(angle), np.sin(angle), 0]])
    cosines = principal_cosines(orthonormal_rows(a), orthonormal_rows(b))
    np.testing.assert_allclose(cosines, [1, np.cos(angle)], atol=1e-12)
    assert similarity(a, b) == pytest.approx((1 + 0.75) / 2)


def test_similarity_ignores_the_basis_and_the_empty_subspace():
    generator = np.random.default_rng(0)
    a, mix = generator.normal(size=(4, 30)), generator.normal(size=(4, 4))
    assert similarity(a, mix @ a) == pytest.approx(1)
    assert np.isnan(similarity(a, np.zeros((4, 30))))
    assert orthonormal_rows(np.outer(np.ones(4), a[0])).shape == (1, 30)


def test_random_subspaces_have_the_chance_that_is_stated():
    generator = np.random.default_rng(0)
    draws = [similarity(generator.normal(size=(4, 40)), generator.normal(size=(8, 40))) for _ in range(200)]
    assert np.mean(draws) == pytest.approx(8 / 40, rel=0.05)


def test_cka_is_that_of_centred_gram_matrices():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(3, 20)), generator.normal(size=(5, 20))
    centering = np.eye(20) - 1 / 20
    k, m = centering @ a.T @ a @ centering, centering @ b.T @ b @ centering
    assert linear_cka(a, b) == pytest.approx(np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)))
    assert linear_cka(a, -2 * a[::-1]) == pytest.approx(1)
    assert np.isnan(linear_cka(a, np.ones_like(a)))


def test_sizes_by_hand():
    a = np.array([[3.0, 0], [0, 3]])
    assert effective_rank(a) == pytest.approx(2)
    assert effective_rank(np.zeros((2, 2))) == 0
    assert effective_rank(np.diag([1.0, 1e-9])) == pytest.approx(1, abs=1e-6)
    assert relative_distance(a, a) == 0
    assert relative_distance(a, -a) == pytest.approx(2)
    assert cosine(a, -a) == pytest.approx(-1)
    assert np.isnan(cosine(a, np.zeros((2, 2))))


def test_p_values_by_hand():
    assert p_value(2.0, np.array([0.0, 1, 2, 3])) == pytest.approx(3 / 5)
    assert sign_flip_p_value(np.ones(12)) < 0.002  # 1 of 4,096 sign patterns is as large
    assert sign_flip_p_value(np.array([1.0, -1.0])) > 0.5
    with pytest.raises(ValueError, match="at least one"):
        sign_flip_p_value(np.array([]))


def test_separability_agrees_with_scikit_learn_and_tells_chance_from_structure():
    generator = np.random.default_rng(2)
    labels, blocks = np.tile([0, 1, 2], 20), np.repeat(np.arange(20), 3)
    apart = generator.normal(size=(60, 5)) + 4 * np.eye(5)[labels]
    mixed = generator.normal(size=(60, 5))
    for points, is_apart in ((apart, True), (mixed, False)):
        d = np.linalg.norm(points[:, None] - points, axis=2)
        found = separability(d, labels, blocks, n_permutations=99)
        assert found.silhouette == pytest.approx(silhouette_score(d, labels, metric="precomputed"))
        assert (found.silhouette_p <= 0.02) == is_apart
        assert (found.knn_p <= 0.02) == is_apart
        assert found.chance == pytest.approx(1 / 3, abs=0.08)


def test_separability_needs_two_points_a_label():
    with pytest.raises(ValueError, match=r"got counts \[2, 1\]"):
        separability(np.zeros((3, 3)), np.array([0, 0, 1]), np.array([0, 1, 1]))


def test_matching_by_hand():
    # Two places of three parts: at the first all are recognised, at the second one of three.
    first, second = np.eye(3), np.array([[0.9, 0.9, 0.9], [0, 0, 0], [0, 0, 0]])
    found = matching(np.stack([first, second]))
    assert (found.accuracy, found.chance) == (pytest.approx(4 / 6), pytest.approx(1 / 3))  # type: ignore[comparison-overlap]
    # The second place has one hit in any order; the first has three in one order of six.
    assert found.p == pytest.approx(1 / 6, abs=0.015)
    assert matching(np.stack([np.eye(3)] * 8)).p < 0.001
    with pytest.raises(ValueError, match=r"got \(2, 3, 1\)"):
        matching(np.zeros((2, 3, 1)))


def test_heads_are_recognised_across_seeds_by_what_b_learnt():
    found = break_down(components(), methods=())
    by_matrix = {row["matrix"]: row for row in found.identification.iter_rows(named=True)}
    assert by_matrix["B"]["accuracy"] == 1
    assert by_matrix["A"]["p"] > 0.05  # here A moves at random
    assert by_matrix["A"]["n_places"] == 4 * len(MODULES)
    assert "the difference is their data" in found.observation.reason
    assert break_down(components(other_seed=False), methods=()).identification.is_empty()
    # Parts that are no different, as IID parts: B depends on its seed alone.
    alike = [
        ComponentAdapter(f"{part} {seed}", f"{part}", seed, lora_state(10 * seed + part, 0)) for seed in (0, 1)
        for part in range(3)
    ]  # fmt: skip
    observation = break_down(alike, methods=()).observation
    assert "no sign of their data" in observation.reason


def test_points_of_one_shape_keep_their_distances_and_shapes_are_orthogonal():
    parts = submodules(lora_state(0, 0), "x")
    cosines = gram(parts)
    d = distances(cosines)
    same = [i for i, p in enumerate(parts) if p.matrix == "B" and p.module == "self_attn.q_proj"][:2]
    a, b = (parts[i].rows.ravel() / np.linalg.norm(parts[i].rows) for i in same)
    assert d[same[0], same[1]] == pytest.approx(np.linalg.norm(a - b), abs=1e-6)
    other = next(i for i, p in enumerate(parts) if p.module == "self_attn.v_proj" and p.matrix == "B")
    assert cosines[same[0], other] == 0


def test_tsne_is_deterministic_and_places_twins_together():
    parts = [s for seed in range(4) for s in submodules(lora_state(seed, 0), f"{seed}") if s.matrix == "A"]
    cosines = gram(parts + parts)
    points = embed(cosines, "t-SNE", random_state=3)
    np.testing.assert_array_equal(points, embed(cosines, "t-SNE", random_state=3))
    twins = np.linalg.norm(points[: len(parts)] - points[len(parts) :], axis=1)
    assert np.median(twins) < 0.1 * np.ptp(points, axis=0).max()
    with pytest.raises(ValueError, match="at least 5 points, got 2"):
        embed(np.eye(2), "t-SNE")


@pytest.mark.slow
def test_umap_is_deterministic():
    cosines = gram([s for part in range(3) for s in submodules(lora_state(0, part), f"{part}") if s.matrix == "A"])
    np.testing.assert_array_equal(embed(cosines, "UMAP", random_state=3), embed(cosines, "UMAP", random_state=3))


def test_a_that_only_started_equal_is_not_called_convergence():
    found = break_down(components(moved=0.2), methods=())
    assert found.observation.verdict == "looks so, but A started equal"
    assert "they are alike because they started equal" in found.observation.reason
    numbers = found.observation.numbers
    assert numbers["a_same_seed"] > 0.9 > 0.3 > numbers["a_other_seed"]
    assert numbers["b_same_data_other_seed"] > numbers["b_other_seed"] + 0.3


def test_a_that_converges_from_any_seed_is_support():
    found = break_down(components(moved=3.0, together=True), methods=())
    assert found.observation.verdict == "supported"
    assert found.observation.numbers["a_update_cosine"] > 0.95


def test_b_that_converge_more_than_a_speak_against_convergence_of_a():
    """Means of heads of three random thirds of GSM8K: A of two seeds exceed chance, their B exceed them."""
    similarities = {
        ("A", SAME_SEED): 0.956,
        ("B", SAME_SEED): 0.700,
        ("A", OTHER_SEED): 0.095,
        ("B", OTHER_SEED): 0.387,
        ("A", SEED_CONTROL): 0.099,
        ("B", SEED_CONTROL): 0.406,
    }
    rows = [
        {"layer": layer, "module": "q_proj", "matrix": matrix, "relation": relation, "subspace_similarity": value}
        for (matrix, relation), value in similarities.items()
        for layer in range(30)
    ]
    pairs = pl.DataFrame(rows).with_columns(chance=pl.lit(0.014), update_cosine=pl.lit(0.5))
    found = observation_two(pairs)
    assert found.verdict == "looks so, but A started equal"
    assert "training brings them together a little, and B more (0.39)" in found.reason


def test_without_another_seed_the_start_decides():
    together = break_down(components(moved=3.0, together=True, other_seed=False), methods=())
    assert together.observation.verdict == "supported"
    assert "they moved, and moved together" in together.observation.reason
    still = break_down(components(moved=0.2, other_seed=False), methods=())
    assert still.observation.verdict == "looks so, but A started equal"


def test_without_any_control_nothing_is_claimed():
    bare = [c for c in components(other_seed=False) if c.trained]
    assert break_down(bare, methods=()).observation.verdict == "cannot tell"
    assert break_down(bare[:1], methods=()).observation.verdict == "cannot tell"


def test_b_as_alike_as_a_is_not_support():
    twins = [ComponentAdapter(f"{i}", f"part {i}", 0, lora_state(0, 0)) for i in range(2)]
    observation = break_down(twins, methods=()).observation
    assert observation.verdict == "not supported"
    assert "not clearly more alike than B" in observation.reason


def test_modules_outside_of_the_layers_are_compared_too():
    def with_head(seed: int, part: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng([seed, part])
        head = {"A": generator.normal(size=(4, 48)), "B": generator.normal(size=(200, 4))}
        named = {f"base_model.model.lm_head.lora_{m}.weight": values for m, values in head.items()}
        return lora_state(seed, part, n_layers=2) | named

    parts = submodules(with_head(0, 0), "x")
    assert [(s.layer, s.module, s.rows.shape) for s in parts[:2]] == [
        (OUTSIDE, "lm_head", (4, 48)), (OUTSIDE, "lm_head", (4, 200)),
    ]  # fmt: skip
    assert parameter_counts(with_head(0, 0))["A"] == parameter_counts(lora_state(0, 0, n_layers=2))["A"] + 4 * 48
    heads = [ComponentAdapter(f"{p}", f"{p}", 0, with_head(0, p)) for p in range(2)]
    found = break_down(heads, methods=("t-SNE",))
    assert found.pairs.filter(module="lm_head")["matrix"].to_list() == ["A", "B"]
    for picture in (similarity_by_layer(found.pairs), layer_maps(found.embedding, "t-SNE", "B")):
        words = {text.get_text() for text in picture.figure.findobj(Text)}
        assert not {"layer -1", "-1", "A lm_head"} & words
        assert {"layer 1", "A q_proj"} & words


def test_tables_of_a_breakdown():
    found = break_down(components(), hydralora_state(3), methods=("t-SNE",))
    assert set(found.pairs["relation"]) == {SAME_SEED, OTHER_SEED, SEED_CONTROL, UNTRAINED, FROM_START, EXPERTS}
    counts = dict(found.pairs.group_by("relation").len().iter_rows())
    places = 4 * len(MODULES)
    assert counts[SAME_SEED] == 2 * 3 * 2 * places  # seeds, pairs of parts, A and B
    assert counts[FROM_START] == 2 * 3 * places  # A only: B starts at zero
    assert counts[UNTRAINED] == places
    assert counts[EXPERTS] == 3 * places
    panels = dict(found.embedding.group_by("panel").len().iter_rows())
    assert panels == {"all": 6 * places, "A": 3 * places, "B": 3 * places}
    moved = found.submodules.filter(pl.col("trained") & (pl.col("matrix") == "A") & (pl.col("part") != "hydralora"))
    assert moved["from_start"].null_count() == 0
    assert moved["from_start"].to_numpy().mean() == pytest.approx(0.2, abs=0.03)
    by_matrix = {row["matrix"]: row for row in found.separability.iter_rows(named=True)}
    # The nearest neighbours of an A are its twins in other heads, so their labels are worse than chance.
    assert by_matrix["A"]["knn_accuracy"] < by_matrix["A"]["chance"]


def test_the_same_input_gives_the_same_tables():
    one, other = (break_down(components(), methods=("t-SNE",), random_state=5) for _ in range(2))
    assert one.embedding.equals(other.embedding)
    assert one.separability.equals(other.separability)
    assert one.observation == other.observation


def test_components_must_match():
    one = components()[0]
    with pytest.raises(ValueError, match="unique names"):
        break_down([one, one])
    short = ComponentAdapter("short", "x", 0, lora_state(0, 0, n_layers=2))
    with pytest.raises(ValueError, match="expected short to adapt the same 12 modules as sum, got 6"):
        break_down([one, short])
