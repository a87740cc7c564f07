"""The PEFT method: its configuration, layer, model and registration with PEFT. Imports `ops`."""
