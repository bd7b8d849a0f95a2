--- The result of a batch that went in several requests: what can be put together exactly. Everything else is left out.

local merged = {}

local SUMS = {}
for name in ([[loss_sum opsd_objective_sum num_tokens weight_sum policy_loss_sum ratio_sum log_ratio_sum entropy_sum
  num_response clip_count trunc_count quad_penalty_sum ref_kl_k3_sum ref_kl_penalty_sum kl_weight_sum echo_loss_sum
  echo_penalty_sum echo_weight_sum num_echo_tokens echo_policy_overlap_count ce_loss_sum kl_loss_sum num_ce_tokens
  num_kl_tokens micro_batches moe/expert_capping_ratio_sum moe/expert_capping_layer_count
  moe/expert_capping_dropped_pairs_sum moe/expert_capping_token_pairs_sum moe/routing_contributor_count
  moe/dropless_routing_contributor_count moe/routing_expected_contributor_count]]):gmatch("%S+") do
  SUMS[name] = true
end

local LARGEST = {["moe/expert_capping_ratio_max"] = true}

-- name = numerator / denominator
local RATIOS = {
  loss_mean = {"loss_sum", "weight_sum"}, mean_ratio = {"ratio_sum", "num_response"},
  kl = {"log_ratio_sum", "num_response"}, entropy = {"entropy_sum", "num_response"},
  clip_frac = {"clip_count", "num_response"}, truncation_frac = {"trunc_count", "num_response"},
  quad_penalty = {"quad_penalty_sum", "num_response"}, ref_kl_k3 = {"ref_kl_k3_sum", "kl_weight_sum"},
  ref_kl_penalty = {"ref_kl_penalty_sum", "kl_weight_sum"}, echo_loss = {"echo_loss_sum", "echo_weight_sum"},
  echo_penalty = {"echo_penalty_sum", "echo_weight_sum"}, ce_loss = {"ce_loss_sum", "num_ce_tokens"},
  opsd_kl = {"kl_loss_sum", "num_kl_tokens"},
  ["moe/expert_capping_ratio_avg"] = {"moe/expert_capping_ratio_sum", "moe/expert_capping_layer_count"},
  ["moe/expert_capping_drop_fraction"] = {"moe/expert_capping_dropped_pairs_sum",
    "moe/expert_capping_token_pairs_sum"},
}

--- The metrics of all parts as one. `loss` is a mean over datums, so each part counts as many times as it has datums.
---@param parts table<string, number>[]
---@param sizes integer[] datums of each part
---@return table<string, number>
function merged.metrics(parts, sizes)
  if #parts == 1 then return parts[1] end
  local all, losses, datums = {}, 0, 0
  for i, metrics in ipairs(parts) do
    for name, value in pairs(metrics) do
      if SUMS[name] then all[name] = (all[name] or 0) + value end
      if LARGEST[name] then all[name] = math.max(all[name] or value, value) end
    end
    losses = losses and metrics.loss and losses + metrics.loss * sizes[i]
    datums = datums + sizes[i]
  end
  if losses and datums > 0 then all.loss = losses / datums end
  for name, parts_of in pairs(RATIOS) do
    local numerator, denominator = all[parts_of[1]], all[parts_of[2]]
    if numerator and denominator and denominator > 0 then all[name] = numerator / denominator end
  end
  return all
end

return merged
