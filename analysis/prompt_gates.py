"""The earlier place of `analysis.experts.prompt_gates`; the cards of saved adapters import from here."""

from analysis.experts.prompt_gates import GroupModel, load_group_model, prompt_gates

__all__ = ["GroupModel", "load_group_model", "prompt_gates"]
