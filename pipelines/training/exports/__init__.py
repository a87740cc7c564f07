"""Plain LoRAs for each domain: how they are made, measured on each other, and served with a chat template.

Imports nothing of `pipelines`.
"""
