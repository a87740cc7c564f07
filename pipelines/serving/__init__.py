"""An OpenAI-compatible proxy that reads the domain off a prompt and names its LoRA. Needs neither torch nor Dagster."""
