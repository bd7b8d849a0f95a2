-- Where a Python with PyTorch is: RIVERLUA_TORCH_PYTHON, or what `make torch` made.

local torch = {}

--- @return string? path, string? missing what to do when there is none
function torch.python()
  local named = os.getenv("RIVERLUA_TORCH_PYTHON")
  local path = named and named ~= "" and named or "build/torch/bin/python"
  local _, good = pcall(function()
    local check = "'%s' -c 'import torch, numpy, safetensors; print(1)' 2>/dev/null"
    local pipe <close> = assert(io.popen(check:format(path)))
    return pipe:read("l") == "1"
  end)
  if good == true then return path end
  return nil, ("PyTorch is not there (%s): make torch, or name a Python in RIVERLUA_TORCH_PYTHON"):format(path)
end

return torch
