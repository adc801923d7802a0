"""One process that asks nobody."""

from accelerate import Accelerator

from divrl_core.training.processes import Processes

ALONE = Processes(Accelerator(cpu=True))
