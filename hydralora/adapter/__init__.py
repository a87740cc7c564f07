"""The PEFT method: configuration, layer, model, and its registration with PEFT. Imports `ops`."""
