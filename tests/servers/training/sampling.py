"""Sampling: from training, base and checkpoints, whole batches and independent ones, and chat."""

import json
import math
import time
import uuid

import numpy

from training import theta
from training.core import Core, Future, Refused, Violation, failure
from training.schema import m

LAYERS, EXPERTS = 2, 2
PLACEHOLDER = "<|image_pad|>"


def _prompt_ids(where, prompt):
    ids = list(prompt.input_ids)
    if ids and prompt.prompt:
        raise Violation(f"{where}: both prompt and input_ids")
    if not ids and not prompt.prompt:
        raise Violation(f"{where}: neither prompt nor input_ids")
    if ids and min(ids) < 0:
        raise Violation(f"{where}: a negative token")
    return ids or list(prompt.prompt.encode())


def _check(where, prompt):
    if prompt.max_tokens < 1:
        raise Violation(f"{where}: max_tokens {prompt.max_tokens}")
    if not math.isfinite(prompt.temperature) or prompt.temperature < 0:
        raise Violation(f"{where}: temperature {prompt.temperature}")
    if not 0 < prompt.top_p <= 1:
        raise Violation(f"{where}: top_p {prompt.top_p}")
    if prompt.top_k < -1:
        raise Violation(f"{where}: top_k {prompt.top_k}")
    if prompt.logprobs < 0:
        raise Violation(f"{where}: logprobs {prompt.logprobs}")
    if any(not stop for stop in prompt.stop):
        raise Violation(f"{where}: an empty stop string")
    if prompt.images and prompt.image_inputs:
        raise Violation(f"{where}: both images and image_inputs")


def _top_block(ids, logprobs, width, padded):
    """The chosen tokens and others that are less likely; the first row of a prompt's block is padding."""
    rows = len(ids)
    tokens = numpy.empty((rows, width), dtype="<i4")
    values = numpy.empty((rows, width), dtype="<f4")
    for column in range(width):
        tokens[:, column] = (numpy.asarray(ids) + column) % 256 if column else ids
        values[:, column] = numpy.asarray(logprobs) - column
    if padded and rows:
        tokens[0], values[0] = -1, -numpy.inf
    return m.TopLogprobs(rows=rows, width=width, token_ids=tokens.tobytes(), logprobs=values.tobytes())


class Sampling(Core):
    def _images(self, where, prompt, ids, session):
        count = len(prompt.images) + len(prompt.image_inputs)
        for image in prompt.image_inputs:
            source = image.WhichOneof("source")
            if source is None:
                raise Violation(f"{where}: an image without data and handle")
            if source == "image_handle":
                self.use_image(image.image_handle, session)
        if count and not prompt.input_ids and prompt.prompt.count(PLACEHOLDER) != count:
            self.ledger.remark(f"{where}: {count} images, {prompt.prompt.count(PLACEHOLDER)} places for them")
        return count

    def sample(self, where, prompt, weight, policy, model, fault, session=None):
        """One InferenceResult; `weight` is θ."""
        _check(where, prompt)
        ids = _prompt_ids(where, prompt)
        if self._images(where, prompt, ids, session) and self.config["image_tokens"] > 1:
            ids = [token for one in ids for token in [one] * (self.config["image_tokens"] if one > 255 else 1)]
        if model is not None:
            model.samples += 1
            turn, source = model.samples, model.id
        else:
            self.base_samples += 1
            turn, source = self.base_samples, "base"
        if prompt.HasField("seed"):
            rng = theta.rng_for(self.seed, "seed", prompt.seed, theta.text_of(ids))
        else:
            rng = theta.rng_for(self.seed, source, turn)
        canned = self.config["canned"]
        words = canned[(turn - 1) % len(canned)] if canned else None
        sampled = theta.answer(ids, weight, prompt, rng, words, self.config["pad_tokens"])
        whole = ids + sampled
        score = theta.Score(whole, weight, prompt.temperature or 1.0)
        own = score.logprobs[len(ids) - 1:]
        if len(self.sequences) > 100000:
            self.sequences.clear()
        self.sequences[numpy.array(whole, dtype=numpy.int64).tobytes()] = (len(ids), own)
        result = m.InferenceResult(
            text=bytes(sampled).decode("utf-8", "replace"), token_ids=sampled, token_logprobs=own,
            prompt_tokens=len(ids))
        if prompt.return_prompt_logprobs:
            result.prompt_token_logprobs.extend([0.0] + list(score.logprobs[:len(ids) - 1]))
        if prompt.return_prompt_logprobs or prompt.return_prompt_token_ids or prompt.return_expert_routing:
            result.prompt_token_ids.extend(ids)
        if prompt.logprobs:
            if prompt.top_logprobs_format != 1:
                self.ledger.remark(f"{where}: logprobs without top_logprobs_format 1")
            result.top_logprobs.CopyFrom(_top_block(sampled, own, prompt.logprobs, False))
            if prompt.return_prompt_logprobs:
                result.prompt_top_logprobs.CopyFrom(_top_block(
                    ids, [0.0] + list(score.logprobs[:len(ids) - 1]), prompt.logprobs, True))
        if prompt.return_expert_routing:
            self._route(result, len(whole) - 1)
        if policy is not None:
            result.policy_version.CopyFrom(policy)
            if sampled:
                if self.config["split_spans"] and len(sampled) > 1 and policy.parent_id in self.policies:
                    result.policy_spans.add(end=len(sampled) // 2,
                                            policy_version=self.policies[policy.parent_id][0])
                result.policy_spans.add(end=len(sampled), policy_version=policy)
        _spoil(result, fault.get("results", {}))
        return result

    def _route(self, result, count):
        handle = self.next_uuid("route")
        self.routing[handle] = count
        choice = numpy.arange(count * LAYERS * EXPERTS, dtype="<i2") % 8
        result.expert_routing.CopyFrom(m.ExpertRouting(
            num_tokens=count, num_decoder_layers=LAYERS, top_k=EXPERTS, layer_indices=range(LAYERS),
            topk_ids=choice.tobytes(), topk_weights=numpy.full(len(choice), 0.5, dtype="<f4").tobytes(),
            routing_handle=handle))

    def _answered(self, results, prompts, metrics_type):
        response = m.InferenceResponse(results=results)
        # what the prompts are: a group of samples of one prompt is paid for once a sample here
        response.usage.prompt_tokens = sum(result.prompt_tokens for result in results)
        response.usage.completion_tokens = sum(len(result.token_ids) for result in results)
        response.usage.total_tokens = response.usage.prompt_tokens + response.usage.completion_tokens
        response.metrics["queue_seconds"] = 0.0
        if metrics_type:
            response.metrics["prompts"] = len(prompts)
        return response

    def _all(self, request, weight, policy, model, fault, session=None):
        if not request.prompts:
            raise Violation("no prompts")
        results = [self.sample(f"prompts[{number}]", prompt, weight, policy, model, fault, session)
                   for number, prompt in enumerate(request.prompts)]
        order = fault.get("results", {})
        del results[len(results) - order.get("drop", 0):]
        results.extend(results[:1] * order.get("extra", 0))
        return self._answered(results, request.prompts, request.metrics_type)

    def checkpoint_source(self, path):
        checkpoint = self.checkpoint(path)
        if checkpoint["mode"] != "inference":
            self.ledger.remark(f"{path} is sampled, but was saved for {checkpoint['mode']}")
        return checkpoint["theta"], checkpoint["policy"]

    def SampleFromTraining(self, request, call, fault):
        model = self.model(request.model_id)
        response = self._all(request, model.theta, model.policy, model, fault, model.session)
        return self.submit(call, fault, model.id, m.RetrieveFutureResponse(inference=response))

    def InferenceGenerate(self, request, call, fault):
        self.base(request.base_model)
        response = self._all(request, self.config["theta"], None, None, fault)
        return self.submit(call, fault, None, m.RetrieveFutureResponse(inference=response))

    def SampleFromCheckpoint(self, request, call, fault):
        weight, policy = self.checkpoint_source(request.checkpoint_path)
        response = self._all(request, weight, policy, None, fault)
        return self.submit(call, fault, None, m.RetrieveFutureResponse(inference=response))

    # Independent batches

    def _batch_source(self, request):
        """θ, policy, model, prompts of a batch."""
        source = request.WhichOneof("source")
        if source is None:
            raise Violation("a sampling batch without a source")
        inner = getattr(request, source)
        pinned = request.pinned_policy_id
        latest = request.policy_selection == 1
        if pinned:
            self.feature("sampling_policy_pinning_v1", "pinned_policy_id")
        if latest:
            self.feature("sampling_latest_snapshot_v1", "the latest snapshot")
        if (pinned or latest) and source != "training":
            raise Violation("a policy is chosen, but the source is no training")
        if pinned and latest:
            raise Violation("both a pinned policy and the latest snapshot")
        if source == "base_source":
            self.base(inner.base_model)
            return inner, self.config["theta"], None, None
        if source == "checkpoint":
            weight, policy = self.checkpoint_source(inner.checkpoint_path)
            return inner, weight, policy, None
        model = self.model(inner.model_id)
        if pinned:
            known = self.policies.get(pinned)
            if known is None or known[0].lineage_id != model.policy.lineage_id:
                raise Refused("FAILED_PRECONDITION", f"policy {pinned} is not available")
            return inner, known[1], known[0], model
        if latest:
            if model.snapshot is None:
                raise Refused("FAILED_PRECONDITION", f"{model.id} has no immutable inference snapshot")
            return inner, self.policies[model.snapshot.id][1], model.snapshot, model
        return inner, model.theta, model.policy, model

    def _groups(self, request, inner):
        groups = list(request.retained_kv_groups)
        if not groups and not request.HasField("kv_cache_policy"):
            return None
        if bool(groups) != request.HasField("kv_cache_policy"):
            raise Violation("retained_kv_groups and kv_cache_policy belong together")
        if request.pinned_policy_id:
            raise Violation("retained_kv_groups exclude a pinned policy")
        if len(groups) != len(inner.prompts):
            raise Violation(f"{len(groups)} retained_kv_groups for {len(inner.prompts)} prompts")
        for group in groups:
            try:
                right = str(uuid.UUID(group)) == group
            except ValueError:
                right = False
            if not right:
                raise Violation(f"the retained_kv_group {group} is not a dashed UUID")
        return groups

    def SubmitSamplingBatch(self, request, call, fault):
        self.feature("sampling_batch_v1", "SubmitSamplingBatch", "UNIMPLEMENTED")
        key = request.idempotency_key
        try:
            uuid.UUID(key)
        except ValueError:
            raise Violation(f"the idempotency_key {key!r} is not a UUID") from None
        known = self.batches.get(key)
        if known is not None:
            if known["raw"] != hash(call.raw):
                raise Violation(f"the idempotency_key {key} with another batch")
            self.ledger.bump("idempotent_replays")
            call.notes["replay"] = True
            return m.SubmitSamplingBatchResponse(request_ids=known["ids"])
        inner, weight, policy, model = self._batch_source(request)
        if not 1 <= len(inner.prompts) <= 128:
            raise Violation(f"{len(inner.prompts)} prompts, 1 to 128 are taken")
        groups = self._groups(request, inner)
        session = model.session if model else None
        ids = []
        for number, prompt in enumerate(inner.prompts):
            result = self.sample(f"prompts[{number}]", prompt, weight, policy, model, fault, session)
            if groups:
                self._retain(result, groups[number], request.kv_cache_policy, policy)
            ids.append(self._handle(number, model, self._answered([result], [prompt], inner.metrics_type), call, fault))
        self.batches[key] = {"raw": hash(call.raw), "ids": ids}
        call.notes["request_ids"] = ids
        order = fault.get("results", {})
        del ids[len(ids) - order.get("drop", 0):]
        return m.SubmitSamplingBatchResponse(request_ids=ids + ids[:1] * order.get("extra", 0))

    def _retain(self, result, group, wanted, policy):
        """The cache of a trajectory: its anchor stays as long as it is not too old."""
        held = self.kv_groups.get(group)
        if held is not None and wanted.anchor_policy_id and wanted.anchor_policy_id != held["anchor"].id:
            self.ledger.remark(f"the group {group} names the anchor {wanted.anchor_policy_id}, "
                               f"{held['anchor'].id} is right")
        anchor = held["anchor"] if held else policy
        if policy is not None and policy.step - anchor.step > wanted.max_staleness:
            if not wanted.refill_on_limit:
                raise Refused("FAILED_PRECONDITION", f"the cache of {group} is older than {wanted.max_staleness} steps")
            anchor, held = policy, None
        result.retained_kv = True
        if anchor is not None:
            result.kv_cache_policy_version.CopyFrom(anchor)
        result.cached_prompt_tokens = min(held["tokens"], result.prompt_tokens) if held else 0
        self.kv_groups[group] = {"anchor": anchor, "tokens": result.prompt_tokens + len(result.token_ids)}

    def _handle(self, number, model, response, call, fault):
        handle = self.next_id("req")
        own = fault.get("handles", {}).get(str(number), {})
        pending = self.config["batch_pending"]
        if isinstance(pending, list):
            pending = pending[number % len(pending)] if pending else 0
        ready = time.monotonic() + own["work"] if "work" in own else 0
        future = Future("SubmitSamplingBatch", model.id if model else None, response,
                        own.get("pending", pending), ready, own.get("never", self.config["batch_manual"]))
        if "failed" in own:
            future.response = failure(own["failed"])
        if "error" in own:
            error = own["error"]
            future.error = [error["code"], error.get("message", "the stand-in was told so"), error.get("times", -1)]
        self.futures[handle] = future
        return handle

    def RetrieveSamplingResults(self, request, call, fault):
        """The messages of one snapshot."""
        ids = list(request.request_ids)
        if not 1 <= len(ids) <= 128 or len(set(ids)) != len(ids):
            raise Violation(f"{len(ids)} handles, {len(set(ids))} of them distinct")
        results = [self._snapshot(handle, request) for handle in ids]
        order = fault.get("stream", {})
        if order.get("reverse"):
            results.reverse()
        if order.get("missing"):
            results.pop()
        if order.get("duplicate"):
            results.append(results[0])
        if order.get("unknown"):
            results.append(m.SamplingResult(request_id="req-unknown", pending=True))
        return results

    def _snapshot(self, handle, request):
        result = m.SamplingResult(request_id=handle)
        future = self.futures.get(handle)
        if future is None or future.method != "SubmitSamplingBatch":
            result.error.code, result.error.message = 5, f"no sample {handle}"
            return result
        if (request.model_id or None) != future.model_id:
            self.ledger.remark(f"{handle} is asked for with the model {request.model_id or None}, "
                               f"{future.model_id} is right")
        future.polls += 1
        if future.error and future.error[2] != 0:
            future.error[2] -= 1 if future.error[2] > 0 else 0
            result.error.code, result.error.message = future.error[:2]
        elif future.never or future.left > 0 or time.monotonic() < future.ready:
            future.left -= 1 if future.left > 0 else 0
            result.pending = True
        elif isinstance(future.response, m.RequestFailedResponse):
            result.failed.CopyFrom(future.response)
        else:
            result.inference.CopyFrom(future.response)
        return result

    # Chat

    def _chat(self, call, fault, text, expected, model_id, weight):
        try:
            body = json.loads(text)
            messages = body["messages"]
            content = messages[-1]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as problem:
            raise Violation(f"request_json is no chat request: {problem!r}") from problem
        if body.get("model") != expected:
            raise Violation(f"request_json asks for the model {body.get('model')}, {expected} was expected")
        if body.get("stream"):
            raise Violation("request_json asks for a stream")
        if isinstance(content, list):
            content = " ".join(part.get("text", "") for part in content)
        options = m.InferencePrompt(max_tokens=body.get("max_tokens", 256),
                                    temperature=body.get("temperature", 1.0), top_k=-1)
        self.base_samples += 1
        ids = list((content or " ").encode())
        sampled = theta.answer(ids, weight, options, theta.rng_for(self.seed, "chat", self.base_samples))
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(sampled),
                 "total_tokens": len(ids) + len(sampled)}
        status = self.config["chat_status"]
        if status == 200:
            answer = {"id": self.next_id("chatcmpl"), "object": "chat.completion", "created": 1700000000,
                      "model": expected, "usage": usage, "choices": [
                          {"index": 0, "finish_reason": "stop",
                           "message": {"role": "assistant", "content": bytes(sampled).decode()}}]}
        else:
            answer = {"error": {"message": "the stand-in was told so", "code": status}}
        response = m.ChatCompleteResponse(response_json=json.dumps(answer), status_code=status, usage=m.Usage(**usage))
        return self.submit(call, fault, model_id, m.RetrieveFutureResponse(chat_complete=response))

    def ChatCompleteFromBase(self, request, call, fault):
        self.base(request.base_model)
        return self._chat(call, fault, request.request_json, request.base_model, None, self.config["theta"])

    def ChatCompleteFromCheckpoint(self, request, call, fault):
        weight, _ = self.checkpoint_source(request.checkpoint_path)
        expected = request.base_model or request.checkpoint_path
        return self._chat(call, fault, request.request_json, expected, None, weight)

    def ChatCompleteFromTraining(self, request, call, fault):
        model = self.model(request.model_id)
        return self._chat(call, fault, request.request_json, model.id, model.id, model.theta)


def _spoil(result, order):
    """What a fault takes from a result or adds to it."""
    if order.get("no_ids"):
        del result.token_ids[:]
    if order.get("no_logprobs"):
        del result.token_logprobs[:]
    if order.get("short_logprobs"):
        del result.token_logprobs[-1:]
    if order.get("oversize"):
        result.text += "x" * order["oversize"]
