"""How long an epoch would take, as reckoned from a step of the networks measured on the CPU in float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from trainables.precision import PLAIN, stepper
from trainables.trainable import Task
from tuner.plan import Plan
from tuner.spaces import STUDENT


class Pace:
    """Reckons epochs of a search's students; each network is measured once, when it is first asked for."""

    def __init__(self, planned: Plan, task: Task) -> None:
        self.planned, self.task = planned, task
        self.steps: dict[str, float] = {}  # seconds of a step of a student

    def epoch_seconds(self, config: Mapping[str, Any]) -> float:
        """Of the student in a trial's config, with a live teacher; a small batch is as dear as a large one."""
        hyper, recipe = config["hyper"], self.planned.recipe
        batch = min(int(hyper.get("batch_size", recipe.batch_size)), recipe.batch_size)
        student = str(hyper.get(STUDENT, self.planned.student))
        teacher = self.planned.step_seconds[2]
        return self.task.facts.n_train / batch * (self._step(student) + teacher)

    def _step(self, student: str) -> float:
        if student == self.planned.student:
            return self.planned.step_seconds[0]
        if student not in self.steps:
            source, recipe = self.planned.source, self.planned.recipe
            images = torch.rand(recipe.batch_size, source.channels, source.size, source.size)
            network = copy.deepcopy(self.planned.look(student).student_model)
            self.steps[student] = stepper(PLAIN, network, images)()
        return self.steps[student]
