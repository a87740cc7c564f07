"""`python -m hydralora.training` with an accelerate that splits models between CPUs too, as torch can."""

from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

initialise = PartialState.__init__


def take_cpus_for_gpus(self: PartialState, *arguments: Any, **options: Any) -> None:
    initialise(self, *arguments, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = take_cpus_for_gpus
    from hydralora.training.run import main

    main()
