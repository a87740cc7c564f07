"""Old name of `analysis.experts.prompt_gates`, which the cards of saved adapters print. Version 0.3 removes it."""

import sys
import warnings

from analysis.experts import prompt_gates

warnings.warn("analysis.prompt_gates is now analysis.experts.prompt_gates", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = prompt_gates
