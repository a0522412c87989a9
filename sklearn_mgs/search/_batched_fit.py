"""Training many models in one batch, each to the end that a lone fit would come to."""

from __future__ import annotations

import io
import pickle
import time

import numpy as np
import torch
from torch import Tensor

from sklearn_mgs._cosines import cosine
from sklearn_mgs._device import resolve_device
from sklearn_mgs._penalty_options import kernel_samples
from sklearn_mgs.search._batched_coherence import BatchedGate
from sklearn_mgs.search._batched_data import BatchedBatch, MiniBatches
from sklearn_mgs.search._batched_net import BatchedMLP
from sklearn_mgs.search._batched_objective import BatchedObjective, BatchedPenalty, Terms
from sklearn_mgs.search._batched_optim import BatchedAdam, BatchedRegularizer, BatchedSGD
from sklearn_mgs.search._explicit_gradient import covers, explicit_gradients
from sklearn_mgs.search._flat import Flat
from sklearn_mgs.search._fold import Model
from sklearn_mgs.search._memory import trim_heap

__all__ = ["BatchedFit"]

DOUBLE = {"dtype": torch.float64}


class BatchedFit:
    """Models of one shape that train together; those that have stopped leave the batch.

    Parameters
    ----------
    models : list of Model
        Their folds have one signature, and the penalty is on in all or in none.
    device : str, default="auto"
        Where they train; "auto" is for each machine that this comes to to resolve.

    Attributes
    ----------
    models : list of Model
        All of them, in the given order.
    active : list of Model
        Those that still train, in the order of the batch.
    epoch : int
        Epochs trained.
    """

    def __init__(self, models: list[Model], device: str = "auto"):
        self.models, self.device = models, device
        self.active = list(models)
        self.epoch = 0
        self.net: BatchedMLP | None = None
        self.torch_state: Tensor | None = None

    # ---------------------------------------------------------------- beginning

    def start(self) -> None:
        """Make the tensors; from here on the folds' estimators are this batch's own."""
        shared = list({id(m.fold): m.fold for m in self.models}.values())
        device = resolve_device(self.device)
        own = {id(fold): fold.private(device) for fold in shared}
        for model in self.models:
            model.fold = own[id(model.fold)]
        fold = self.models[0].fold
        est = self.estimator = fold.estimator
        parts = [m.fold.initial() for m in self.models]
        weights, biases = ([torch.stack(p) for p in zip(*part)] for part in zip(*parts))
        self.net = BatchedMLP(weights, biases, est.activation, est.dropout)
        self.best = Flat(self.net.parameters.parts) if est.early_stopping else None
        self.objective = self._make_objective()
        self.step_size = self._make_optimizer()
        gate = None
        if est.coherence_threshold is not None:
            gate = BatchedGate(est.coherence_threshold, est.coherence)
        self.regularizer = BatchedRegularizer(self._column("alpha"), self._column("l1"), gate)
        est._n_batch(len(fold.samples))  # warns of one that is too large
        self.explicit = covers(self.objective, self.net)
        self.batches = MiniBatches(list(own.values()))
        self.batches.choose([m.fold for m in self.models])

    @property
    def like(self) -> dict:
        """Precision and device."""
        memory = self.net.parameters.memory
        return {"dtype": memory.dtype, "device": memory.device}

    def __getstate__(self) -> dict:
        """Through torch, which can bring the tensors to another device when loading."""
        if self.net is None:
            return vars(self)
        buffer = io.BytesIO()
        torch.save(vars(self), buffer, pickle_protocol=pickle.HIGHEST_PROTOCOL)
        return {"device": self.device, "torch": buffer.getvalue()}

    def __setstate__(self, state: dict) -> None:
        """Go on where this machine trains."""
        if "torch" in state:
            device = resolve_device(state["device"])
            # The content is no less trusted than the pickle it travels in.
            where = {"map_location": device, "weights_only": False}
            state = torch.load(io.BytesIO(state["torch"]), **where)
            for fold in {id(m.fold): m.fold for m in state["active"]}.values():
                fold.samples.device = device
                fold.estimator.module_.to(device)
        vars(self).update(state)

    def _values(self, name: str) -> Tensor | None:
        """A parameter of each model, shape (M,), or None if it is zero in all."""
        default = getattr(self.estimator, name)
        values = [m.params.get(name, default) for m in self.models]
        return torch.tensor(values, **self.like) if any(values) else None

    def _column(self, name: str) -> Tensor | None:
        """The same of shape (M, 1, 1)."""
        values = self._values(name)
        return None if values is None else values[:, None, None]

    def _make_objective(self) -> BatchedObjective:
        est = self.estimator
        return BatchedObjective(
            est._loss_name(),
            self._make_penalty(),
            label_smoothing=getattr(est, "label_smoothing", 0.0),
            input_noise=est.input_noise,
            jacobian_strength=est.jacobian_strength,
            gradient_strength=est.gradient_strength,
        )

    def _make_penalty(self) -> BatchedPenalty | None:
        strength = self._values("mgs_strength")
        if strength is None:
            return None
        penalties = [m.fold.penalty for m in self.models]
        scale = torch.stack([p.scale_ for p in penalties]).to(**self.like)
        names = [f"linear{i}" for i in range(len(self.net.weights))]
        weights = [[p.layer_weights_.get(name, 0.0) for name in names] for p in penalties]
        return BatchedPenalty(
            penalties[0],
            strength / scale,
            torch.tensor(weights, **self.like),
            kernel_samples(self.estimator, len(self.models[0].fold.samples)),
        )

    def _make_optimizer(self):
        est, net = self.estimator, self.net
        if est.solver == "adam":
            betas = (est.beta_1, est.beta_2)
            return BatchedAdam(net, est.learning_rate_init, betas, est.epsilon)
        nesterov = est.nesterovs_momentum and est.momentum > 0
        return BatchedSGD(net, est.learning_rate_init, est.momentum, nesterov)

    # ----------------------------------------------------------------- training

    def train(self, until: int, on_epoch=None) -> None:
        """Train until epoch `until`, or until no model is left.

        Parameters
        ----------
        until : int
            Epochs since the beginning.
        on_epoch : callable, default=None
            Called with the number of models that were trained, after each epoch.
        """
        if not self.active:
            return
        began = time.perf_counter()
        if self.net is None:
            self.start()
        generator = self._generator()
        while self.active and self.epoch < until:
            trained = len(self.active)
            # Without what autograd keeps of tensors, which takes a tenth of the time.
            with torch.inference_mode() if self.explicit else torch.no_grad():
                means = self._train_epoch(generator)
            self._after_epoch(means)
            if on_epoch is not None:
                on_epoch(trained)
        for row, model in enumerate(self.active):
            model.parameters = self._result.row(row)
        self.torch_state = generator.get_state()
        for model in self.models:
            model.fit_time += (time.perf_counter() - began) / len(self.models)

    def _generator(self) -> torch.Generator:
        """As the last epoch left it, if that was on this kind of device."""
        generator, state = torch.Generator(self.like["device"]), self.torch_state
        if state is not None and len(state) == len(generator.get_state()):
            return generator.set_state(state.cpu())
        return generator.manual_seed(self.active[0].fold.seed + self.epoch)

    def _train_epoch(self, generator) -> dict[str, np.ndarray]:
        """Take a step per mini-batch; return the epoch's means, each of shape (M,)."""
        terms: list[Terms] = []
        sizes: list[tuple[int, ...]] = []
        for batch in self.batches:
            if batch is not None:
                terms.append(self._step(batch, generator))
                sizes.append(batch.sizes)
        self.epoch += 1
        share = self.batches.shares(sizes)
        zero = torch.zeros(len(self.active), device=share.device, **DOUBLE)
        loss, mgs = zip(*terms)
        rows = {
            "train_loss": share.mul(torch.stack(loss)).sum(0),
            "mgs_penalty": zero if mgs[0] is None else share.mul(torch.stack(mgs)).sum(0),
            "l2": zero + self.regularizer.mean_loss(share),
            "parameters": sum(p.sum((1, 2)) for p in self.net.parameters.parts).double(),
        }
        return dict(zip(rows, torch.stack(list(rows.values())).cpu().numpy()))

    def _step(self, batch: BatchedBatch, generator) -> Terms:
        net, regularizer = self.net, self.regularizer
        n = batch.weight_sum
        n = n[:, None, None] if isinstance(n, Tensor) else n
        terms, coherence = self._gradients(batch, generator)
        regularizer.before_step(net.weights, net.gradients.parts[: len(net.weights)], n, coherence)
        self.step_size.step(net)
        regularizer.after_step(net.weights, self.step_size.learning_rate, n)
        return terms

    def _gradients(self, batch: BatchedBatch, generator):
        """Terms, and the coherence (M,) of the mini-batch's halves if it counts."""
        gate, net = self.regularizer.gate, self.net
        if gate is None or gate.measure != "batch" or batch.n_samples < 2:
            return self._objective_gradients(batch, generator), None
        middle = batch.n_samples // 2
        rows = slice(0, middle), slice(middle, batch.n_samples)
        shares = [self._share(batch, part) for part in rows]
        terms, parts = [], []
        for part, share in zip(rows, shares):
            t = self._objective_gradients(batch.part(part), generator)
            terms.append(Terms(*(None if v is None else v * share.flatten() for v in t)))
            parts.append([g * share for g in net.gradients.parts])
        coherence = torch.func.vmap(cosine)(*(part[: len(net.weights)] for part in parts))
        for g, a, b in zip(net.gradients.parts, *parts):
            torch.add(a, b, out=g)
        return Terms(*(None if a is None else a + b for a, b in zip(*terms))), coherence

    def _share(self, batch: BatchedBatch, rows: slice) -> Tensor:
        """Share (M, 1, 1) of the mini-batch's weight that some of its samples have."""
        weight = batch.sample_weight
        if weight is None:
            weight = torch.ones(len(self.active), batch.n_samples, **self.like)
        return (weight[:, rows].sum(1) / weight.sum(1))[:, None, None]

    def _objective_gradients(self, batch: BatchedBatch, generator) -> Terms:
        if self.explicit:
            return explicit_gradients(self.objective, self.net, batch, generator)
        return self.objective.gradients(self.net, batch, generator)

    # ------------------------------------------------------------ after an epoch

    def _after_epoch(self, means: dict[str, np.ndarray]) -> None:
        """Count, as a lone fit does, and let those go that it would stop."""
        est = self.estimator
        finite = np.all([np.isfinite(v) for v in means.values()], axis=0)
        losses = est._reported_loss(means)
        improved = []
        for row, model in enumerate(self.active):
            if not finite[row]:
                model.failure = f"non-finite weights or losses in epoch {self.epoch}"
                continue
            score = self._validation_score(row) if est.early_stopping else None
            if model.after_epoch(float(losses[row]), score):
                improved.append(row)
        if self.best is not None and improved:
            for best, p in zip(self.best.parts, self.net.parameters.parts):
                best[improved] = p[improved]
        self._schedule_learning_rate()
        last = self.epoch >= est.max_iter
        self.leave([row for row, m in enumerate(self.active) if last or m.failure or m.exhausted])

    def _validation_score(self, row: int) -> float:
        model = self.active[row]
        model.load(self.net.parameters.row(row))
        return model.fold.estimator._score_validation(model.fold.validation)

    def _schedule_learning_rate(self) -> None:
        """Follow the schedules "invscaling" and "adaptive", which are SGD's."""
        est, sgd = self.estimator, self.step_size
        if est.solver != "sgd" or est.learning_rate == "constant":
            return
        rate = sgd.learning_rate.clone()
        if est.learning_rate == "invscaling":
            for row, model in enumerate(self.active):
                t = self.epoch * len(model.fold.samples)
                rate[row] = est.learning_rate_init / (t + 1) ** est.power_t
        else:
            rates = rate.flatten().tolist()
            for row, model in enumerate(self.active):
                if model.exhausted and rates[row] > 1e-6:
                    rate[row] /= 5
                    model.stale = 0
        sgd.set_learning_rate(rate)

    @property
    def _result(self) -> Flat:
        """The parameters that a fit would end with now: the best, with early stopping."""
        return self.net.parameters if self.best is None else self.best

    def leave(self, rows: list[int]) -> None:
        """Let the models in these rows go, with the weights they have come to."""
        if not rows:
            return
        for row in rows:
            self.active[row].parameters = self._result.row(row)
        stay = [row for row in range(len(self.active)) if row not in set(rows)]
        self.active = [self.active[row] for row in stay]
        keep = torch.tensor(stay, dtype=torch.int64, device=self.like["device"])
        parts = (self.net, self.objective, self.step_size, self.regularizer, self.best)
        for part in parts:
            if part is not None:
                part.keep(keep)
        if self.active:
            self.batches.choose([m.fold for m in self.active])
        else:
            self._clear()

    def drop(self, staying) -> None:
        """Let all go whose candidate is not among those."""
        going = [row for row, m in enumerate(self.active) if m.candidate not in staying]
        dropped = [self.active[row] for row in going]
        self.leave(going)
        for model in dropped:
            model.forget()

    def _clear(self) -> None:
        """Nothing is left to train."""
        self.net = self.best = self.estimator = self.batches = None
        self.objective = self.step_size = self.regularizer = None

    def release(self) -> None:
        """Forget all but the models' records."""
        self.active = []
        self._clear()
        for model in self.models:
            model.forget()
        trim_heap()
