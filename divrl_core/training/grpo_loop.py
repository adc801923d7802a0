"""The training loop of both stages, by Flow-GRPO or DiffusionNFT: one page of named steps."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..evaluation.heldout_summary import selection_score
from ..models.lora import REFERENCE, lora_state
from ..rl.ema import ema_start, ema_update
from .algorithms import ALGORITHMS
from .checkpoint import Tensors, TrainState
from .data import RunData, pick_pairs
from .encoded_pairs import EncodedPairs
from .experience import gather_experience
from .metrics_log import MetricsLog
from .optimizer import learning_rate
from .own_reward import RewardFunction
from .policy import Policy
from .processes import Processes
from .publish import Due, Publisher
from .rewarding import Rewarder
from .run_folder import RunFolder
from .run_under_way import RunUnderWay, TrainResult
from .start import (
    encode_run,
    make_policy,
    make_rewarder,
    open_adapter,
    open_run_data,
    set_threads,
    start_processes,
)
from .stepper import make_stepper
from .train_row import UpdateCost, train_row
from .watch import Warned, Watch

logger = logging.getLogger("divrl")


def train(
    config: TrainConfig,
    output: Path | str,
    *,
    resume: bool = False,
    data: RunData | None = None,
    reward: RewardFunction | None = None,
) -> TrainResult:
    """Train a LoRA as the settings say, into a run folder.

    Args:
        config: the settings; with `resume` those the run began with (only run.updates may grow).
        output: the run folder: new or empty, or with `resume` one that holds a run.
        resume: go on from the last checkpoint. On the CPU with the same number of threads the run is then equal, bit
            for bit, to one that was never stopped.
        data: the references, if they are open already; else as config.data says.
        reward: a reward of one's own in place of the one that config.reward.kind names.

    Raises:
        ValueError, FileNotFoundError: settings, data, model or output that cannot be used; a reward, loss or gradient
            that is not finite; too few samples with a defined reward.
        KeyboardInterrupt: on SIGINT or SIGTERM, after the micro-batch was finished and the checkpoint saved.
    """
    # The folder and its settings come first; a changed setting or a folder in use stops here.
    folder = RunFolder(Path(output))
    processes = start_processes(config, folder.path)
    state = folder.open_together(config, processes, resume=resume)
    threads = set_threads(config, state)
    log = folder.open_log(state) if processes.is_main else folder.unread_log()

    # Prompts and references are encoded once, before the transformer is read; then the text encoders leave.
    adapter = open_adapter(config, processes.device, is_sharded=processes.in_lockstep)
    data = data or open_run_data(config, adapter)
    rewarder = make_rewarder(config, adapter, reward)
    encoded = encode_run(config, adapter, rewarder, data, processes, folder.path)

    # The policy, its optimizer and its average, fresh or as the checkpoint left them.
    policy = make_policy(config, adapter, processes, state)
    processes.shard(adapter.transformer)
    run = _Run(config, folder, processes, data, rewarder, encoded, policy, log, threads, state)
    state = None  # its tensors are the run's now: no second copy is kept

    # Publish, save, update; until done or asked to stop.
    with run.stoppable():
        run.until_done()
    return run.finish("held-out measures")


class _Run(RunUnderWay):
    """A run of explore or suppress: what it is made of, and the steps of one update."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        processes: Processes,
        data: RunData,
        rewarder: Rewarder,
        encoded: EncodedPairs,
        policy: Policy,
        log: MetricsLog,
        threads: int,
        state: TrainState | None,
    ) -> None:
        super().__init__(config, folder, processes, log, threads)
        self.config, self.policy = config, policy
        self.data, self.rewarder, self.encoded = data, rewarder, encoded

        self.parameters = policy.parameters
        self.stepper = make_stepper(config.optim, self.parameters, processes)
        self.average: Tensors = ema_start(self.parameters)
        if state is not None:
            self.stepper.load(state.optimizer)
            self.average = state.average
        self.start_from(state)
        self.first_update = self.update

        self.algorithm = ALGORITHMS[config.algorithm]
        self.learner = self.algorithm.learner(config, policy, self.stepper, processes, self._follow, state)
        self.watch = Watch(config, selection_score)
        self.publisher = Publisher(
            config=config,
            folder=folder,
            policy=policy,
            encoded=encoded,
            rewarder=rewarder,
            data=data,
            processes=processes,
            on_progress=self._show,
        )
        self._last_reward = ""
        if processes.is_main:
            self._start_log()

    def make_update(self) -> None:
        """One update: rollouts and rewards, the law of the algorithm at every start, the optimizer's steps, one row."""
        config, number = self.config, self.update
        run, grpo = config.run, config.grpo
        cpu_started = time.process_time()
        plan = self.algorithm.plan(config, self.policy.times(config.rollout.steps), number)
        pairs = pick_pairs(self.data.train.pairs, grpo.groups_per_update, seed=run.seed, update=number)
        with self.learner.drawing():
            experience = gather_experience(
                self.policy,
                plan,
                self.encoded,
                self.rewarder,
                self.data.train,
                pairs,
                grpo,
                self.processes,
                seed=run.seed,
                update=number,
                on_progress=lambda made, count: self._show(f"rollout {made + 1}/{count}"),
            )
        self.stop_if_asked()
        if number == self.first_update and experience.judged:
            self.learner.check(plan, self.encoded, experience.judged[0].batch)

        started = time.perf_counter()
        self.stepper.lr = learning_rate(config.optim, number)
        stats = self.learner.learn(
            plan, self.encoded, experience.judged, on_progress=lambda made: self._show("learn", made > 0)
        )
        cost = UpdateCost(
            train_seconds=time.perf_counter() - started,
            cpu_seconds=self.processes.total(time.process_time() - cpu_started),
            model_evaluations=config.rollout.steps * grpo.samples_per_update + stats.model_evaluations,
        )

        self.update, self.is_published = number + 1, False
        self.record(train_row(config, self.update, experience, stats, self.stepper.lr, cost))
        self._last_reward = f"reward {self.log.rows[-1]['reward']:.4f}" if self.log.rows else ""
        self.progress.update(1)

    def publish(self) -> None:
        """Write what is due at this update, then the checkpoint; nothing when it was written before."""
        due = Due.at(self.update, self.config.run)
        if self.is_published or not due.anything:
            return
        self.best, row = self.publisher.publish(self.update, self.average, self.best)
        if row is not None:
            self.record(row)
        if self.processes.is_main:
            self._warn(self.watch.new_warnings(self.log.rows))
        self.processes.wait()
        self.is_published = True
        self.save()
        if self.processes.is_main:
            self.folder.prune_loras(keep_last=self.config.run.keep_last, best=self.best)

    def kept_beside(self) -> dict[str, Any]:
        """The LoRA that KL holds on to, if it holds on to the start, and what the algorithm keeps."""
        kept = self.learner.kept()
        if self.config.holds_on_to_start:
            kept["kl_reference"] = lora_state(self.policy.adapter.transformer, adapter=REFERENCE)
        return kept

    def _follow(self) -> None:
        """Let the average follow the weights, after every optimizer step."""
        self.average = ema_update(self.average, self.parameters, self.config.optim.ema_decay)

    def _show(self, phase: str, is_halfway: bool = False) -> None:
        """Not between two optimizer steps of one rollout."""
        self.show(f"{self._last_reward} {phase}".strip(), is_halfway)

    def _warn(self, warnings: list[Warned]) -> None:
        for warning in warnings:
            logger.warning("%s", warning.message)
            row = {"kind": "warning", "update": self.update, "name": warning.name, "message": warning.message}
            self.log.append(row)

    def _start_log(self) -> None:
        logger.info(
            "masks: %s (train), %s (held out); CPU threads: %d",
            self.data.train.mask_source,
            self.data.held_out.mask_source,
            self.threads,
        )
        if not self.log.rows:
            self._warn(self.watch.at_start())
        self._warn(self.watch.new_warnings(self.log.rows))
