"""An OpenAI-compatible proxy that predicts a prompt's domain and names its LoRA. Needs neither torch nor Dagster."""
