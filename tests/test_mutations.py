"""Each known silent bug is put into the source; the test beside its module must fail."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutate import TESTS, checked, mutate, place_of, replace_everywhere, run_check

pytest.importorskip("timm")

from tutelage.chain import frozen, prepare, student, trained, types
from tutelage.steps import distillation

NO_DECAY = "        if not parameter.requires_grad:\n"

# name -> (the test that must fail, module, text of the source, text with the bug)
MUTATIONS: dict[str, tuple[str, str, str, str]] = {
    "an arm of the ladder becomes the teacher": (
        "ladder/test_arms.py::test_an_arm_never_teaches",
        "chain.pipeline",
        "        return self._load_or_run(name, work, judged=False)\n",
        "        return self.stage(name, work, judged=False)\n",
    ),
    "the ladder's draws are not paired": (
        "ladder/test_figures.py::test_ladder_differences_are_paired",
        "ladder.figures",
        "(accuracy[arm] - accuracy[minus])",
        "(np.sort(accuracy[arm]) - accuracy[minus])",
    ),
    "every draw of the ladder is the first": (
        "ladder/test_draws.py::test_ladder_draws_are_different",
        "ladder.draws",
        "Draw(number, first + number - 1)",
        "Draw(number, first)",
    ),
    "the head learns in the first leg only": (
        "chain/test_trained.py::test_every_leg_trains_head_and_trunk",
        "chain.trained",
        "    model.requires_grad_(True)  # the averaged model of the leg before learns nothing\n",
        "",
    ),
    "a fold's pseudo-labels know its held-out labels": (
        "chain/test_pool.py::test_held_out_labels_are_no_part_of_their_chains_pseudo_labels",
        "chain.pool",
        "        known[fold.judges] = False\n",
        "        pass\n",
    ),
    "optimizer never steps": (
        "training/test_loop.py::test_trained_weights_move",
        "training.loop",
        "        optimizer.step()\n",
        "",
    ),
    "gradients thrown away before the step": (
        "training/test_loop.py::test_trained_weights_move",
        "training.loop",
        "            optimizer.step()\n",
        "            optimizer.zero_grad(set_to_none=True)\n            optimizer.step()\n",
    ),
    "convolutions missing from the optimizer": (
        "training/test_loop.py::test_trained_weights_move",
        "models.zoo",
        NO_DECAY,
        "        if not parameter.requires_grad or parameter.ndim == 4:\n",
    ),
    "head missing from the optimizer": (
        "training/test_loop.py::test_trained_weights_move",
        "models.zoo",
        NO_DECAY,
        "        if not parameter.requires_grad or parameter is model.head.weight:\n",
    ),
    "average of the start": (
        "training/test_loop.py::test_trained_weights_move",
        "training.loop",
        "            training.ema.update(model)\n",
        "",
    ),
    "frozen norms follow train()": (
        "training/test_loop.py::test_frozen_weights_stay",
        "models.classifier",
        "        if self.is_frozen:\n            self.trunk.eval()\n",
        "",
    ),
    "frozen trunk still has gradients": (
        "training/test_loop.py::test_frozen_weights_stay",
        "models.classifier",
        "        self.trunk.requires_grad_(False)\n",
        "",
    ),
    "no T squared": (
        "test_losses.py::test_the_divergence_by_hand",
        "losses",
        ".sum(dim=1) * temperature**2",
        ".sum(dim=1)",
    ),
    "mean over classes instead of batchmean": (
        "test_losses.py::test_the_divergence_by_hand",
        "losses",
        ".sum(dim=1) * temperature**2",
        ".mean(dim=1) * temperature**2",
    ),
    "KL the wrong way round": (
        "test_losses.py::test_the_divergence_by_hand",
        "losses",
        "teacher.exp() * (teacher - student)",
        "student.exp() * (student - teacher)",
    ),
    "temperature is ignored by the step": (
        "steps/test_distillation.py::test_a_label_takes_its_share_from_the_teacher",
        "steps.distillation",
        "temperature=self.temperature",
        "temperature=1.0",
    ),
    "teacher's share forgotten where there is a label": (
        "steps/test_distillation.py::test_a_label_takes_its_share_from_the_teacher",
        "steps.distillation",
        "share = 1.0 - (1.0 - self.alpha) * batch.weights",
        "share = 1.0 - batch.weights",
    ),
    "teacher called with gradient": (
        "steps/test_distillation.py::test_teacher_gets_no_gradient",
        "steps.distillation",
        "with torch.no_grad()",
        "with torch.enable_grad()",
    ),
    "teacher's logits not detached": (
        "test_losses.py::test_losses_give_the_teacher_no_gradient",
        "losses",
        "teacher_logits.detach()",
        "teacher_logits",
    ),
    "mean of the teachers' logits": (
        "steps/test_distillation.py::test_two_teachers_are_the_mean_of_their_calibrated_probabilities",
        "steps.distillation",
        "return log_probs.logsumexp(dim=0) - math.log(len(logits))",
        "return log_probs.mean(dim=0)",
    ),
    "teachers averaged before calibration": (
        "steps/test_distillation.py::test_two_teachers_are_the_mean_of_their_calibrated_probabilities",
        "steps.distillation",
        "return lambda images: forward(images) / temperature",
        "return lambda images: forward(images)",
    ),
    "one trunk's head stands for all": (
        "chain/test_frozen.py::test_a_joint_teacher_is_the_mean_of_its_trunks",
        "heads.probe",
        "Head(torch.stack(weights).mean(dim=0), torch",
        "Head(weights[0], torch",
    ),
    "the trunks' features change places": (
        "chain/test_frozen.py::test_a_joint_teacher_is_the_mean_of_its_trunks",
        "models.joint",
        "for member in self.members:",
        "for member in [*self.members][::-1]:",
    ),
    "every trunk is normalised as the first": (
        "chain/test_frozen.py::test_a_joint_teacher_is_the_mean_of_its_trunks",
        "models.joint",
        "getattr(member.spec, name)",
        "getattr((members[0] if name in ('mean', 'std') else member).spec, name)",
    ),
    "a training starts from another trunk's features": (
        "chain/test_frozen.py::test_a_training_goes_on_from_the_first_trunks_own_head",
        "chain.frozen",
        "columns_of(run.base)[0]",
        "columns_of(run.base)[1]",
    ),
    "student alone learns from the pool's empty targets": (
        "chain/test_student.py::test_student_alone_sees_labels_only",
        "chain.student",
        "        labeled,\n        None,\n",
        "        labeled,\n        task.unlabeled_examples(task.pool),\n",
    ),
    "forward in training mode": (
        "models/test_forward.py::test_forward_is_an_evaluation_snapshot",
        "models.forward",
        "Outputs(copy.deepcopy(model)).eval()",
        "Outputs(copy.deepcopy(model)).train()",
    ),
    "forward shares the live weights": (
        "models/test_forward.py::test_forward_is_an_evaluation_snapshot",
        "models.forward",
        "Outputs(copy.deepcopy(model)).eval()",
        "Outputs(model).eval()",
    ),
    "teacher draws its own view": (
        "training/test_loader.py::test_teacher_and_student_see_the_same_views",
        "training.loader",
        "drawn.plan[looked_at], size)",
        "(drawn if size == views.size else self._draw(step + 1)).plan[looked_at], size)",
    ),
    "teacher sees the clean view": (
        "chain/test_student.py::test_pipeline_gives_both_the_same_view",
        "training.loader",
        "drawn.plan[looked_at], size)",
        "drawn.plan[looked_at] if size == views.size else "
        "type(drawn.plan).identity(len(looked_at)), size)",
    ),
    "teacher sees unmixed images": (
        "training/test_loader.py::test_teacher_and_student_see_the_same_mixing",
        "training.loader",
        "mix.images(view) for size, view",
        "mix.images(view) if size == views.size else view for size, view",
    ),
    "teacher sees another mixing": (
        "training/test_loader.py::test_teacher_and_student_see_the_same_mixing",
        "training.loader",
        "mix.images(view) for size, view",
        "(mix if size == views.size else self._draw(step + 1).mix or mix).images(view)"
        " for size, view",
    ),
    "box in whole pixels of one size": (
        "training/test_loader.py::test_teacher_and_student_see_the_same_mixing",
        "augment.mix",
        "columns, rows = _overlap(x0, x1, width), _overlap(y0, y1, height)",
        "columns, rows = _overlap(x0 * 96 / width, x1 * 96 / width, width), "
        "_overlap(y0 * 96 / height, y1 * 96 / height, height)",
    ),
    "one normalisation for all": (
        "training/test_loader.py::test_each_model_normalises_with_its_own_numbers",
        "models.classifier",
        "(images - self.mean) / self.std",
        "(images - 0.5) / 0.5",
    ),
    "loader normalises for the student": (
        "training/test_loader.py::test_each_model_normalises_with_its_own_numbers",
        "training.loader",
        "            seen[views.size],\n",
        "            seen[views.size] * 2 - 1,\n",
    ),
    "lambda of the box before clipping": (
        "augment/test_mix.py::test_cutmix_share_is_the_clipped_box",
        "augment.mix",
        "return Mix.of(perm, (corners * _GRID).round() / _GRID, torch.ones(batch))",
        "return Mix(perm, share, (corners * _GRID).round() / _GRID, torch.ones(batch))",
    ),
    "lambda before the grid": (
        "augment/test_mix.py::test_cutmix_share_is_the_clipped_box",
        "augment.mix",
        "return Mix.of(perm, (corners * _GRID).round() / _GRID, torch.ones(batch))",
        "lam = Mix.of(perm, corners, torch.ones(batch)).lam\n"
        "    return Mix(perm, lam, (corners * _GRID).round() / _GRID, torch.ones(batch))",
    ),
    "targets mixed by the partner's share": (
        "augment/test_mix.py::test_cutmix_share_is_the_clipped_box",
        "augment.mix",
        "return torch.lerp(targets[self.perm.to(targets.device)], targets, lam)",
        "return torch.lerp(targets, targets[self.perm.to(targets.device)], lam)",
    ),
    "EMA without buffers": (
        "models/test_classifier.py::test_ema_is_the_average_of_weights_and_buffers",
        "models.classifier",
        "averages, currents = self.model.state_dict(), model.state_dict()",
        "averages, currents = dict(self.model.named_parameters()), dict(model.named_parameters())",
    ),
    "EMA copies integer buffers never": (
        "models/test_classifier.py::test_ema_is_the_average_of_weights_and_buffers",
        "models.classifier",
        "            averages[name].copy_(currents[name])\n",
        "            pass\n",
    ),
    "weak and strong views apart": (
        "steps/test_one_forward.py::test_online_step_makes_one_forward",
        "steps.fixmatch",
        "model(torch.cat(views)).split([len(view) for view in views])",
        "[model(view) for view in views]",
    ),
    "labelled and pool images apart, supervised": (
        "steps/test_one_forward.py::test_supervised_step_makes_one_forward",
        "steps.supervised",
        "logits = whole(model(batch.images))",
        "logits = torch.cat([model(batch.images[batch.weights > 0]), "
        "model(batch.images[batch.weights == 0])])",
    ),
    "labelled and pool images apart, distillation": (
        "steps/test_one_forward.py::test_distillation_step_makes_one_forward",
        "steps.distillation",
        "logits = whole(model(batch.images))",
        "logits = torch.cat([model(batch.images[batch.weights > 0]), "
        "model(batch.images[batch.weights == 0])])",
    ),
    "threshold before alignment": (
        "steps/test_fixmatch.py::test_online_counter_counts_what_the_loss_uses",
        "steps.fixmatch",
        "Targets(weak.aligned, confident(weak.aligned, self.threshold))",
        "Targets(weak.aligned, confident(weak.probs, self.threshold))",
    ),
    "counter on the raw confidence": (
        "steps/test_fixmatch.py::test_online_counter_counts_what_the_loss_uses",
        "steps.fixmatch",
        '"pseudo_labeled": weights.sum() / max(1, len(weights))',
        '"pseudo_labeled": (probs.amax(dim=1) >= 0.7).float().mean()',
    ),
    "counter counts labelled images": (
        "steps/test_fixmatch.py::test_online_counter_counts_what_the_loss_uses",
        "steps.fixmatch",
        '"pseudo_labeled": weights.sum() / max(1, len(weights))',
        '"pseudo_labeled": weights.sum() / len(batch)',
    ),
    "mean over the images that are used": (
        "steps/test_fixmatch.py::test_online_counter_counts_what_the_loss_uses",
        "steps.fixmatch",
        "unsupervised = cross_entropy(strong, targets, weights)",
        "unsupervised = cross_entropy(strong, targets, weights / weights.mean())",
    ),
    "predictions are not aligned": (
        "steps/test_fixmatch.py::test_online_counter_counts_what_the_loss_uses",
        "steps.fixmatch",
        "WeakViews(probs, aligned, batch.ids)",
        "WeakViews(probs, probs, batch.ids)",
    ),
    "running mean of labelled images too": (
        "steps/test_fixmatch.py::test_the_running_mean_is_of_the_pools_weak_views",
        "steps.fixmatch",
        "self.marginal = running_mean(self.marginal, probs, self.momentum)",
        "self.marginal = running_mean(self.marginal, weak.float().softmax(dim=1), self.momentum)",
    ),
    "FlexMatch counts the slot of unsure images": (
        "steps/test_thresholds.py::test_flexmatch_counts_sure_images",
        "steps.thresholds",
        "learning_effect(self.marks[:-1], self.n_classes)",
        "learning_effect(self.marks, self.n_classes)",
    ),
    "FlexMatch marks images it is not sure of": (
        "steps/test_thresholds.py::test_flexmatch_judges_by_the_marks_of_earlier_batches",
        "steps.thresholds",
        "self.marks[torch.where(sure, weak.ids, -1)]",
        "self.marks[weak.ids]",
    ),
    "FlexMatch without its warm-up": (
        "steps/test_thresholds.py::test_flexible_thresholds_by_hand",
        "steps.thresholds",
        "torch.maximum(effect.max(), unused).clamp_min(1)",
        "effect.max().clamp_min(1)",
    ),
    "FlexMatch without its mapping": (
        "steps/test_thresholds.py::test_flexible_thresholds_by_hand",
        "steps.thresholds",
        "beta / (2 - beta) * threshold",
        "beta * threshold",
    ),
    "FreeMatch's local thresholds not over the largest": (
        "steps/test_thresholds.py::test_adaptive_thresholds_by_hand",
        "steps.thresholds",
        "marginal / marginal.max() * confidence",
        "marginal * confidence",
    ),
    "FreeMatch's fairness with the other sign": (
        "steps/test_thresholds.py::test_fairness_by_hand",
        "steps.thresholds",
        "return (expected * torch.where(present, shares, 1.0).log()).sum()",
        "return -(expected * torch.where(present, shares, 1.0).log()).sum()",
    ),
    "FreeMatch's fairness without histograms": (
        "steps/test_thresholds.py::test_fairness_by_hand",
        "steps.thresholds",
        ".sum(dim=0) / counts.clamp_min(1) * present",
        ".sum(dim=0) * present",
    ),
    "SoftMatch's Gaussian not truncated above the mean": (
        "steps/test_thresholds.py::test_weights_by_hand",
        "steps.thresholds",
        "(confidence - mean).clamp_max(0)",
        "confidence - mean",
    ),
    "SoftMatch's variance of two sigma": (
        "steps/test_thresholds.py::test_weights_by_hand",
        "steps.thresholds",
        "(2 * variance.clamp_min(1e-12))",
        "(variance.clamp_min(1e-12) / 2)",
    ),
    "running means in half precision": (
        "steps/test_fixmatch.py::test_running_means_keep_their_precision_where_the_forward_has_less",
        "steps.fixmatch",
        "torch.softmax(weak[n:].float(), dim=1)",
        "torch.softmax(weak[n:], dim=1)",
    ),
    "labelled and pool images apart, Mean Teacher": (
        "steps/test_one_forward.py::test_mean_teacher_step_makes_one_forward",
        "steps.mean_teacher",
        "logits = whole(model(batch.images))",
        "logits = torch.cat([model(batch.images[batch.weights > 0]), "
        "model(batch.images[batch.weights == 0])])",
    ),
    "gradients of the ranks are averaged, not added": (
        "system/test_ranks.py::test_ranks_train_as_one_process_does",
        "training.loop",
        "(loss * current().world).backward()",
        "loss.backward()",
    ),
    "gradients are not exchanged": (
        "system/test_ranks.py::test_ranks_train_as_one_process_does",
        "training.together",
        "    if current().world == 1:\n        return model\n",
        "    return model\n",
    ),
    "norms of each rank's own share": (
        "system/test_ranks.py::test_ranks_train_as_one_process_does",
        "training.together",
        "        if func is F.batch_norm:\n            return self._batch_norm(*args, **kwargs)\n",
        "",
    ),
    "a norm's gradient of each rank's own share": (
        "system/test_ranks.py::test_ranks_train_as_one_process_does",
        "training.together",
        "        distributed.all_reduce(sums)\n",
        "",
    ),
    "noise of each rank's own share": (
        "system/test_ranks.py::test_ranks_train_as_one_process_does",
        "training.together",
        "        if func is F.dropout:\n            return self._dropout(*args, **kwargs)\n",
        "",
    ),
    "views drawn for each rank's own share": (
        "system/test_ranks.py::test_ranks_train_as_one_process_does",
        "training.loader",
        "drawn.plan[looked_at], size)",
        "views.policy.plan(self.canvases.aspect(drawn.rows[looked_at.numpy()]), "
        "torch.Generator().manual_seed(step)), size)",
    ),
    "partners for the mixing from the rank's own share": (
        "system/test_ranks.py::test_ranks_train_as_one_process_does",
        "training.loader",
        "            seen = {size: mix.images(view) for size, view in seen.items()}\n",
        "            mix = self._mix(len(mix.perm), torch.Generator().manual_seed(step)) or mix\n"
        "            seen = {size: mix.images(view) for size, view in seen.items()}\n",
    ),
    "thresholds of each rank's own share": (
        "system/test_ranks.py::test_ranks_train_as_one_process_does",
        "steps.fixmatch",
        "            targets, weights = self.method(WeakViews(probs, aligned, batch.ids))\n",
        "            from tutelage.system.ranks import current\n"
        "            own = current().share(len(probs))\n"
        "            self.method(WeakViews(probs[own], aligned[own], batch.ids[own]))\n"
        "            targets, weights = self.method(WeakViews(probs, aligned, batch.ids))\n",
    ),
    "strong views of each rank's own share": (
        "system/test_ranks.py::test_ranks_train_as_one_process_does",
        "steps.fixmatch",
        "weak, strong = (whole(part) for part in parts)",
        "weak, strong = whole(parts[0]), parts[1].repeat(9, 1)[: len(batch.ids)]",
    ),
    "every rank evaluates every image": (
        "heads/test_bank.py::test_ranks_count_every_image_once",
        "heads.bank",
        "starts, starts[current().share(len(starts))]",
        "starts, starts",
    ),
    "a norm is measured on each rank's own share": (
        "chain/test_student.py::test_ranks_measure_a_neck_as_one",
        "chain.student",
        "    with alone():  # every rank's norm sees all batches\n        look(",
        "    if True:\n        look(",
    ),
    "resumed without the average": (
        "training/test_checkpoint.py::test_a_resumed_training_ends_bitwise_as_an_undisturbed_one",
        "training.loop",
        '        self.ema.load_state_dict(part("ema"))\n',
        "",
    ),
    "resumed without the optimiser's moments": (
        "training/test_checkpoint.py::test_a_resumed_training_ends_bitwise_as_an_undisturbed_one",
        "training.loop",
        "self.optimizer.state[parameter][name] = torch.empty_like(like).copy_(value)",
        "pass",
    ),
    "resumed without the generator": (
        "training/test_checkpoint.py::test_a_resumed_training_ends_bitwise_as_an_undisturbed_one",
        "training.loop",
        '        torch.set_rng_state(saved.tensors["generator"])\n',
        "",
    ),
    "resumed without the thresholds": (
        "training/test_checkpoint.py::test_a_resumed_training_ends_bitwise_as_an_undisturbed_one",
        "training.loop",
        '            self.step.load_state_dict(part("step"))\n',
        "            pass\n",
    ),
    "resumed at the first images": (
        "training/test_checkpoint.py::test_a_resumed_training_ends_bitwise_as_an_undisturbed_one",
        "training.loader",
        "        first = self.first + steps\n",
        "        first = self.first\n",
    ),
    "resumed at the first learning rate": (
        "training/test_checkpoint.py::test_a_resumed_training_ends_bitwise_as_an_undisturbed_one",
        "training.loop",
        "training.pace.planned_step(number) - 1\n",
        "training.pace.planned_step(number) - 1 - done\n",
    ),
    "the last state is delivered, not the best": (
        "training/test_best.py::test_the_best_state_is_delivered",
        "training.loop",
        "average if best is None else best.restore(average)",
        "average",
    ),
    "the best state follows the model": (
        "training/test_best.py::test_the_best_state_is_delivered",
        "training.best",
        "value.detach().cpu().clone()",
        "value.detach().cpu()",
    ),
    "the worst state is kept": (
        "training/test_best.py::test_the_best_state_is_delivered",
        "training.best",
        "found < min(self.measured)",
        "found > max(self.measured)",
    ),
    "a training in vain goes on": (
        "training/test_best.py::test_a_training_in_vain_ends",
        "training.loop",
        " and not (self.best is not None and self.best.in_vain)",
        "",
    ),
    "resumed without the best state": (
        "training/test_best.py::test_a_training_goes_on_with_its_best_state",
        "training.loop",
        '            self.best.load_state_dict(part("best"))\n',
        "            pass\n",
    ),
    "fewer steps with the rates of all": (
        "training/test_pace.py::test_a_shortened_training_has_the_whole_schedule",
        "training.loop",
        "training.pace.planned_step(number) - 1\n",
        "number - 1\n",
    ),
    "the student's head is fitted to other images' answers": (
        "chain/test_student.py::test_the_students_head_pairs_images_with_their_own_answers",
        "chain.student",
        "logits = [self.pool_logits[at]]",
        "logits = [self.pool_logits[: len(at)]]",
    ),
    "the student learns from the images that judge it": (
        "chain/test_student.py::test_the_student_is_judged_on_images_apart",
        "chain.student",
        "seen = run.on(pool=np.setdiff1d(run.task.pool, apart))",
        "seen = run",
    ),
    "resumed without the mean teacher": (
        "training/test_checkpoint.py::test_a_resumed_training_ends_bitwise_as_an_undisturbed_one",
        "steps.mean_teacher",
        "                self.teacher.load_state_dict(self._saved)\n",
        "                pass\n",
    ),
    "the mean teacher is never updated": (
        "steps/test_mean_teacher.py::test_the_teacher_after_two_steps_by_hand_buffers_included",
        "steps.mean_teacher",
        "self.teacher.update(bare(model))",
        "pass",
    ),
    "the mean teacher in train mode": (
        "steps/test_mean_teacher.py::test_the_teacher_is_in_eval_mode_and_untouched_by_gradients_and_forwards",
        "steps.mean_teacher",
        "teacher_logits = whole(self.teacher.model(batch.weak))",
        "teacher_logits = whole(self.teacher.model.train()(batch.weak))",
    ),
    "the mean teacher without its buffers": (
        "steps/test_mean_teacher.py::test_the_teacher_after_two_steps_by_hand_buffers_included",
        "models.classifier",
        "averages, currents = self.model.state_dict(), model.state_dict()",
        "averages, currents = dict(self.model.named_parameters()), dict(model.named_parameters())",
    ),
    "the mean teacher sees the strong view": (
        "steps/test_mean_teacher.py::test_the_loss_by_hand",
        "steps.mean_teacher",
        "self.teacher.model(batch.weak)",
        "self.teacher.model(batch.images)",
    ),
    "gradient through the weak view's belief": (
        "steps/test_fixmatch.py::test_online_counter_counts_what_the_loss_uses",
        "steps.fixmatch",
        "unsupervised = cross_entropy(strong, ",
        "unsupervised = cross_entropy(weak[n:], ",
    ),
    "a short stream cuts the batch": (
        "training/test_loader.py::test_few_labels_are_repeated_not_dropped",
        "training.loader",
        "    wanted = np.arange(step * count, (step + 1) * count)\n",
        "    count = min(count, n)\n    wanted = np.arange(step * count, (step + 1) * count)\n",
    ),
    "a short stream is left out": (
        "training/test_loader.py::test_few_labels_are_repeated_not_dropped",
        "training.loader",
        "            for number, (examples, count) in enumerate(self.streams)\n",
        "            for number, (examples, count) in enumerate(self.streams)\n"
        "            if len(examples) >= count or len(self.streams) == 1\n",
    ),
    "an image drawn with replacement": (
        "training/test_loader.py::test_few_labels_are_repeated_not_dropped",
        "training.loader",
        "out[here] = shuffled(n, seed, int(epoch))[wanted[here] % n]",
        "out[here] = np.random.default_rng([*seed, int(epoch)]).integers(0, 2, here.sum())",
    ),
    "a streamed pass is the one before again": (
        "training/test_loader.py::test_streamed_passes_are_shuffled_anew_and_whole",
        "training.loader",
        "windowed(n, window, (*seed, int(epoch)), wanted",
        "windowed(n, window, seed, wanted",
    ),
    "streamed windows are not shuffled": (
        "training/test_loader.py::test_streamed_passes_are_shuffled_anew_and_whole",
        "data.stream",
        ".permutation(positions[positions < n])",
        ".permutation(1) + positions[positions < n]",
    ),
    "streamed blocks are dealt in order": (
        "training/test_loader.py::test_streamed_passes_are_shuffled_anew_and_whole",
        "data.stream",
        "blocks = np.random.default_rng(seed).permutation(-(-n // block))",
        "blocks = np.arange(-(-n // block))",
    ),
    "a streamed image is its neighbour": (
        "training/test_loader.py::test_streamed_images_are_the_stored_ones",
        "data.stream",
        "return here, at[here]",
        "return here, at[here] - 1",
    ),
    "labelled images left in the pool": (
        "chain/test_roles.py::test_labeled_images_leave_the_pool",
        "data.split",
        "return np.flatnonzero(self.roles == role)",
        'return np.flatnonzero(np.isin(self.roles, (role, "labeled")))',
    ),
    "copies are found and used": (
        "chain/test_roles.py::test_copies_are_not_counted_twice",
        "chain.load",
        "[name not in gone for name in catalog.names]",
        "[name not in () for name in catalog.names]",
    ),
    "copies of test images are trained on": (
        "chain/test_roles.py::test_copies_are_not_counted_twice",
        "data.duplicates",
        "return self.split != self.other_split",
        "return False",
    ),
    "labelled images counted in the pool": (
        "chain/test_roles.py::test_copies_are_not_counted_twice",
        "data.duplicates",
        'return "image" if pair.kind == "exact" and pair.split == "train" else ""',
        'return ""',
    ),
    "images under two labels are trained on": (
        "chain/test_roles.py::test_copies_are_not_counted_twice",
        "data.duplicates",
        "self.label != self.other_label",
        "False",
    ),
    "the pool keeps its labels": (
        "chain/test_roles.py::test_labeled_images_leave_the_pool",
        "data.split",
        "labels = np.where(seen, catalog.labels, -1)",
        "labels = np.where(seen | True, catalog.labels, -1)",
    ),
    "a fold keeps the labels it is judged on": (
        "chain/test_roles.py::test_labeled_images_leave_the_pool",
        "chain.types",
        "            keep[held_out] = False\n",
        "",
    ),
    "export crops as if all images were square": (
        "deploy/test_graph.py::test_training_and_export_see_the_same_view",
        "deploy.graph",
        "self.answers(canvas, width / height)",
        "self.answers(canvas, torch.ones(1))",
    ),
    "export squashes by torch's plain bilinear": (
        "deploy/test_graph.py::test_training_and_export_see_the_same_view",
        "deploy.graph",
        "canvas = squash(images, self.spec.canvas)",
        "canvas = F.interpolate(images.permute(0, 3, 1, 2).float(), (48, 48), mode='bilinear')"
        ".permute(0, 2, 3, 1)",
    ),
    "export resizes without antialiasing": (
        "deploy/test_graph.py::test_training_and_export_see_the_same_view",
        "augment.resample",
        "    width = scale.abs().clamp(min=1.0)\n",
        "    width = torch.ones_like(scale)\n",
    ),
    "evaluation looks at the whole image": (
        "deploy/test_graph.py::test_training_and_export_see_the_same_view",
        "augment.policy",
        "resample.center_box(aspect.cpu().float(), 1, self.crop_pct)",
        "resample.center_box(aspect.cpu().float(), 1, 1.0)",
    ),
    "evaluation looks at another crop of the store": (
        "deploy/test_graph.py::test_training_and_export_see_the_same_view",
        "data.store",
        "return rgb, width / height, ",
        "return rgb, height / width, ",
    ),
    "limit fitted on images that made the means": (
        "stats/test_unknown.py::test_limit_comes_from_held_out_images",
        "stats.unknown",
        "    held_out = held_out_distances(features, labels)\n",
        "    held_out = mean_distances(features, labels, features)\n",
    ),
    "the held-out image stays in its mean": (
        "stats/test_unknown.py::test_limit_comes_from_held_out_images",
        "stats.unknown",
        "_unit(sums[index[scored]] - features[scored])",
        "_unit(sums[index[scored]])",
    ),
    "a fold's limit knows its judged images": (
        "chain/test_pool.py::test_judged_images_are_no_part_of_their_folds_limit",
        "chain.pool",
        "detect(labeled[fold.keep], task.labels[fold.keep], pool)",
        "detect(labeled, task.labels, pool)",
    ),
    "images out of class in the prior": (
        "chain/test_pool.py::test_images_out_of_class_decide_nothing",
        "chain.pool",
        "teacher, temperature, beliefs[inside])",
        "teacher, temperature, beliefs)",
    ),
    "images out of class in the alignment": (
        "chain/test_pool.py::test_images_out_of_class_decide_nothing",
        "chain.pool",
        "beliefs[inside] = align_to_prior(beliefs[inside], prior",
        "beliefs = align_to_prior(beliefs, prior",
    ),
    "a fold's clusters start at its judged images": (
        "chain/test_pool.py::test_held_out_labels_start_no_cluster_of_their_chain",
        "chain.pool",
        """            labeled[torch.from_numpy(fold.keep)],
            task.labels[fold.keep],
""",
        """            labeled,
            task.labels,
""",
    ),
    "the less likely head has the larger share": (
        "chain/test_frozen.py::test_the_head_with_the_likelier_labels_has_the_larger_share",
        "chain.frozen",
        "stacking_weight(*losses)",
        "stacking_weight(*losses[::-1])",
    ),
    "the weight of the chosen head goes to the probe's": (
        "chain/test_frozen.py::test_the_head_with_the_likelier_labels_has_the_larger_share",
        "chain.frozen",
        "Head(first * a.weight + second * b.weight,",
        "Head(second * a.weight + first * b.weight,",
    ),
    "clusters as sure as they say beside the head": (
        "chain/test_pool.py::test_clusters_that_are_too_sure_do_not_outvote_the_head",
        "chain.answers",
        "theirs / divisors[1]",
        "theirs",
    ),
    "images out of class in the clusters": (
        "chain/test_pool.py::test_images_out_of_class_move_no_cluster",
        "chain.pool",
        "unlabeled[torch.from_numpy(inside)]",
        "unlabeled",
    ),
    "images out of class accepted": (
        "chain/test_pool.py::test_images_out_of_class_decide_nothing",
        "stats.pseudo_labels",
        "accepted=~detection.outside",
        "accepted=detection.distances >= 0",
    ),
    "images out of class in an online round": (
        "chain/test_trained.py::test_online_round_leaves_out_of_class_images",
        "chain.trained",
        "task.unlabeled_examples(task.pool[inside])",
        "task.unlabeled_examples(task.pool)",
    ),
}


INERT: dict[str, tuple[str, str, str]] = {
    "magnitude": ("chain.recipe", "float(config.magnitude)", "9.0"),
    "crop_scale": ("chain.recipe", "scale=(config.crop_scale, 1.0)", "scale=(0.35, 1.0)"),
    "weight_decay": ("chain.trained", "        weight_decay=t.weight_decay,\n", ""),
    "drop_path_rate": ("chain.trained", "run.config.transfer.drop_path_rate)", "0.1)"),
    "alignment": ("chain.pool", "prior, strength=strength", "prior"),
    "out_of_class": ("chain.pool", 'run.config.self_train.out_of_class == "keep"', "False"),
    "clusters": ("chain.rounds", 'chain.run.config.self_train.clusters == "ignore"', "False"),
    "online": (
        "chain.trained",
        "        config.self_train.online,\n",
        '        "fixmatch",\n',
    ),
    "threshold": ("chain.trained", "threshold=config.self_train.threshold", "threshold=0.95"),
    "temperature": ("steps.distillation", "temperature=self.temperature", "temperature=1.0"),
    "alpha": ("chain.student", "alpha=config.alpha", "alpha=0.7"),
    "limit": ("data.split", '_draw(catalog.names, pool, limit, f"{seed}/pool")', "pool"),
}

QUICK = (  # one of each kind outside .ci/weekly: in the loop, a step, the chain and on two ranks
    "optimizer never steps",
    "counter on the raw confidence",
    "a fold's limit knows its judged images",
    "resumed without the generator",
)


def some(names: Iterable[str], quick: Sequence[str]) -> list[Any]:
    """All names, of which the quick ones alone are no work for ``.ci/weekly``."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.weekly) for n in names]


@pytest.mark.parametrize("name", [*MUTATIONS, *INERT])
def test_a_bug_has_its_place_in_the_source_and_its_check(name: str) -> None:
    module, old, _new = INERT[name] if name in INERT else MUTATIONS[name][1:]
    place_of(f"tutelage.{module}", old)
    if name in MUTATIONS:
        path, _, test = MUTATIONS[name][0].partition("::")
        assert f"\ndef {test}(" in (TESTS / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", some(MUTATIONS, QUICK))
def test_a_bug_in_the_source_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, module, old, new = MUTATIONS[name]
    checked(check)  # before the bug: it goes where the check's module has its names, too
    if module == "steps.supervised":  # the buggy text needs a name that the module has not
        monkeypatch.setattr("tutelage.steps.supervised.torch", __import__("torch"), raising=False)
    mutate(monkeypatch, f"tutelage.{module}", old, new)
    with pytest.raises(AssertionError):
        run_check(check, tmp_path)


def _live_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distillation asks the live teacher, in training mode."""

    def live(model: Any) -> Any:
        model.train()
        return torch.no_grad()(lambda images: model(images))

    monkeypatch.setattr(distillation, "Forward", live)


def _uncalibrated_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student mimics the logits before calibration."""
    step = student.DistillationStep
    monkeypatch.setattr(
        student,
        "DistillationStep",
        lambda teacher, **kw: step(lambda view: 2.0 * teacher(view), **kw),
    )


def _choice_on_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are chosen, judged and calibrated on the test images."""
    make_task = prepare.make_task

    def leaky(data: Any, plan: Any) -> Any:
        task, test = make_task(data, plan), data.split.indices("test")
        fold = types.Fold(np.ones(len(task.labels), dtype=bool), np.arange(len(test)))
        return dataclasses.replace(
            task, judged=test, judged_labels=data.split.truth[test], folds=(fold,)
        )

    monkeypatch.setattr(prepare, "make_task", leaky)


def _test_in_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test images are pseudo-labelled and trained on."""
    make_task = prepare.make_task

    def leaky(data: Any, plan: Any) -> Any:
        task, test = make_task(data, plan), data.split.indices("test")
        return dataclasses.replace(task, pool=np.concatenate([task.pool, test]))

    monkeypatch.setattr(prepare, "make_task", leaky)


def _all_beliefs_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The round learns from every belief, whatever was accepted."""
    believed = frozen.believed_targets

    def everything(labels: Any, kind: Any) -> Any:
        everyone = np.ones_like(labels.accepted)
        return believed(dataclasses.replace(labels, accepted=everyone), kind)

    replace_everywhere(monkeypatch, believed, everything)


def _folds_keep_every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold's model trains on all labels."""
    train_fold = trained._train_fold

    def whole(run: Any, fold: Any, *rest: Any) -> Any:
        everything = dataclasses.replace(fold, keep=np.ones_like(fold.keep))
        return train_fold(run, everything, *rest)

    replace_everywhere(monkeypatch, train_fold, whole)


IN_THE_CHAIN = {
    "live teacher": (
        "chain/test_student.py::test_pipeline_teacher_is_in_evaluation_mode",
        _live_teacher,
    ),
    "uncalibrated teacher": (
        "chain/test_student.py::test_pipeline_teacher_is_in_evaluation_mode",
        _uncalibrated_teacher,
    ),
    "choice on test": (
        "chain/test_roles.py::test_the_test_split_decides_nothing",
        _choice_on_test,
    ),
    "test images in the pool decide": (
        "chain/test_roles.py::test_the_test_split_decides_nothing",
        _test_in_the_pool,
    ),
    "test images in the pool": (
        "chain/test_roles.py::test_labeled_images_leave_the_pool",
        _test_in_the_pool,
    ),
    "all beliefs are trained on": (
        "chain/test_trained.py::test_round_trains_on_what_the_report_counts",
        _all_beliefs_are_trained_on,
    ),
    "folds keep every label": (
        "chain/test_trained.py::test_held_out_labels_are_not_trained_on",
        _folds_keep_every_label,
    ),
}


@pytest.mark.parametrize("name", some(IN_THE_CHAIN, ["folds keep every label"]))
def test_a_bug_in_the_chain_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, bug = IN_THE_CHAIN[name]
    checked(check)
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        run_check(check, tmp_path)


@pytest.mark.parametrize("name", some(INERT, ["magnitude"]))
def test_a_setting_that_does_nothing_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = checked("chain/test_settings.py::test_every_setting_changes_something")
    module, old, new = INERT[name]
    mutate(monkeypatch, f"tutelage.{module}", old, new)
    with pytest.raises(AssertionError, match=f"{name} changes nothing"):
        settings(name, tmp_path, {}, monkeypatch)
