"""Hidden states at the ends of prompts, against one forward pass a prompt."""

import numpy as np
import pytest
import torch

from hydralora.data import Template, tokenise
from hydralora.evaluation.prompt_states import prompt_states
from tests.hydralora.small import small_model, small_tokenizer

PROMPTS = ["What is rain?", "Name a river.", "a " * 100, "Why"]


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_equals_one_prompt_at_a_time(template: Template) -> None:
    model, tokenizer = small_model(), small_tokenizer()
    found = prompt_states(model, tokenizer, PROMPTS, template=template, max_length=48, batch_tokens=100)
    assert found.shape == (4, 32)
    rows = [{"prompt": prompt, "completion": "x", "source": "s"} for prompt in PROMPTS]
    documents = tokenise(rows, tokenizer, template=template, max_length=4096)
    for i, row in enumerate(documents.rows(range(len(PROMPTS)))):
        prompt = row["input_ids"][: row["answer_start"]]
        if len(prompt) > 48:  # the middle goes
            prompt = [*prompt[:24], *prompt[-24:]]
        with torch.no_grad():
            states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(found[i], states[0, -1].numpy(), atol=1e-5)


def test_leaves_the_model_as_it_was() -> None:
    model = small_model()
    before = model(torch.tensor([[1, 2, 3]])).logits
    prompt_states(model, small_tokenizer(), PROMPTS[:2])
    torch.testing.assert_close(model(torch.tensor([[1, 2, 3]])).logits, before)
    assert prompt_states(model, small_tokenizer(), []).shape == (0, 32)
