"""HydraLoRA (Tian et al., NeurIPS 2024) as a PEFT method for stock transformers."""
