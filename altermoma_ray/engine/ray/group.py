"""Ray Train workers that do one piece of work after another, and keep what they have loaded.

A job of :func:`altermoma_ray.engine.ray.workers.run_on_workers` starts its workers anew, which takes half a minute of
processes, imports and loading. A group is one such job which serves many pieces of work from a mailbox::

    this process                      Mailbox                        worker 0 ... worker N - 1
    group.run(work)  ── run(work) ──▶ one queue for each worker ◀── take(rank)
                     ◀──── True ───── once all have called          end()
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from altermoma_ray.engine.ray import mailbox
from altermoma_ray.engine.ray.trainer import fit_once
from altermoma_ray.engine.ray.workers import rank_and_world, start_again
from altermoma_ray.storage import Location


class WorkerGroup:
    """Ray Train workers that start with the first piece of work, and stay for the next ones.

    The workers hold their CPUs and GPUs until :meth:`close`, or until no work has come for
    :data:`altermoma_ray.engine.ray.mailbox.IDLE_SECONDS`; a later piece of work starts others.

    Example:
        Two workers load a runner once and run two trials::

            group = WorkerGroup(load, job, workers=2, gpus_per_worker=0.0, storage=storage)
            group.run({"number": 0}, "trial 0")
            group.run({"number": 1}, "trial 1")
            group.close()

    Args:
        load: called with ``job`` by every worker at its start, with ``torch.distributed`` set up; gives the function
            that does a worker's part of one piece of work.
        job: picklable description of what all pieces of work share.
        workers: number of workers, each with one CPU.
        gpus_per_worker: GPUs of each worker.
        storage: place for Ray's files while the workers run, within reach of every node.
    """

    def __init__(
        self,
        load: Callable[[Any], Callable[[Any], None]],
        job: Any,
        *,
        workers: int,
        gpus_per_worker: float,
        storage: Location,
    ) -> None:
        self._load, self._job = load, job
        self._workers, self._gpus_per_worker, self._storage = workers, gpus_per_worker, storage
        self._mailbox: Any = None
        self._ended: Future[None] | None = None

    def run(self, work: Any, describe: str) -> None:
        """Let all workers do a piece of work, and wait.

        When a worker's process or node dies, all of them start again, up to three times. After an error no worker
        stays, since others may wait in a reduction for the one that failed.

        Args:
            work: plain data, handed to the function given by ``load``.
            describe: name of the work in messages.

        Raises:
            UserError: a worker raised one.
            ray.train.TrainingFailedError: a worker failed otherwise, or died once more.
        """
        start_again(lambda: self._run_once(work), describe)

    def _run_once(self, work: Any) -> None:
        while True:
            if self._ended is None:
                self._start()
            try:
                if ray.get(self._mailbox.run.remote(work)):
                    return
            except ray.exceptions.RayActorError:
                # The workers tell of a dead mailbox as of an error of their own: this one says more.
                self.close()
                raise
            # Workers that had no work for a while end without an error: others start.
            error = self.close()
            if error is not None:
                raise error

    def _start(self) -> None:
        # On this process's own node: another node may leave the cluster, and the group would end with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._mailbox = mailbox.Mailbox.options(scheduling_strategy=here).remote(self._workers, mailbox.IDLE_SECONDS)
        self._ended = Future()
        threading.Thread(target=self._fit, args=(self._mailbox, self._ended), daemon=True).start()

    def _fit(self, works: Any, ended: Future[None]) -> None:
        try:
            fit_once(
                _serve,
                (self._load, self._job, works),
                workers=self._workers,
                gpus_per_worker=self._gpus_per_worker,
                storage=self._storage,
            )
            ended.set_result(None)
        except Exception as error:  # raised by `run`, in the thread that waits there
            ended.set_exception(error)
        finally:
            works.close.remote()  # nobody is left to do the work at hand

    def close(self) -> BaseException | None:
        """Let the workers go, and wait until their CPUs and GPUs are free.

        Returns:
            The error that ended them; None for workers that ended in peace, or never started.
        """
        if self._ended is None:
            return None
        ended, self._ended = self._ended, None
        self._mailbox.close.remote()
        return ended.exception()


def _serve(load: Callable[[Any], Callable[[Any], None]], job: Any, works: Any) -> None:
    """A worker's life: loading, then one piece of work after another."""
    rank, _ = rank_and_world()
    run = load(job)
    while (work := ray.get(works.take.remote(rank))) is not None:
        run(work)
        works.end.remote()
