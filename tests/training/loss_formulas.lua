--- The formulas of loss_vectors.jsonl, which the official client captured from PyTorch, written in Lua.

return {
  ce = {{targets = "int64", weights = "float32"}, function(logits, x)
    local loss = (logits:ce(x.targets):float() * x.weights):sum()
    return loss, {weight_sum = x.weights:sum()}
  end},
  cispo = {{advantages = "float32", mask = "float32", old_logprobs = "float32", targets = "int64"},
    function(logits, x)
      local lp = -(logits / 0.7):ce(x.targets):float()
      local ratio = (lp - x.old_logprobs):exp()
      local weight = ratio:clamp(nil, 6):detach()
      return -(weight * lp * x.advantages * x.mask):sum() / x.mask:sum():clamp(1)
    end},
  topk64 = {{ids = {"int64", 8}, p = {"float32", 8}}, function(logits, x)
    return -(logits:log_softmax("float32"):gather(x.ids) * x.p):sum()
  end},
  ppo = {{targets = "int64", old = "float32", a = "float32"}, function(logits, x, g)
    local ratio = (-logits:ce(x.targets):float() - x.old):exp()
    return -g.minimum(ratio * x.a, ratio:clamp(0.8, 1.2) * x.a):sum()
  end},
  misc = {{targets = "int64"}, function(logits, x)
    local v = logits:ce(x.targets):float()
    local all = v:var() + v:std(0) + v:logsumexp() + v:amax() + (v ^ 2):mean()
    return all + (v:sqrt() + (-v):expm1() + (v + 1):log()):sum(), {m = v:amin()}
  end},
}
