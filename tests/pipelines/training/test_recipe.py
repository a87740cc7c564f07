"""What a recipe hands to a training."""

from pipelines.training.recipe import Recipe


def test_a_training_gets_the_rates_of_its_method() -> None:
    recipe = Recipe(
        max_steps=1, learning_rate=0.1, learning_rates={"lora_r8": 0.2}, learning_rate_ratios={"lora_B": 4.0}
    )
    assert recipe.training_config("lora_r8").learning_rate == 0.2
    config = recipe.training_config("hydralora")
    assert config.learning_rate == 0.1
    assert config.learning_rate_ratios == {"lora_B": 4.0}
    assert "learning_rate_ratios" in recipe.identity()["recipe"]


def test_another_budget_and_seed_replace_those_of_the_recipe() -> None:
    config = Recipe(num_train_epochs=1, seed=3).training_config("full", max_tokens=10, seed=5)
    assert (config.num_train_epochs, config.max_tokens, config.seed) == (None, 10, 5)
