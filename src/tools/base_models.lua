-- Makes the embedded trainer's base models in a folder: riverlua src/tools/base_models.lua FOLDER

local base_models = require "training.embedded.base_models"
local errors = require "riverlua.errors"

for _, name in ipairs(base_models.built_in()) do
  print("  MAKE " .. name)
  local ok, err = pcall(base_models.make, name, {folder = arg[1], progress = false})
  if not ok and errors.is(err, "unsupported") then
    print("the base models are left out: " .. err.message)
    break
  end
  if not ok then error(err, 0) end
end
