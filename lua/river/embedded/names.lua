--- Names for models that were uploaded without one.

local names = {}

local ADJECTIVES = {
  "amber", "ample", "balmy", "brave", "breezy", "bright", "brisk", "calm", "candid", "clever", "cosmic", "crisp",
  "curious", "dapper", "daring", "deft", "eager", "early", "fabled", "fair", "fleet", "fond", "frosty", "gentle",
  "gilded", "glad", "golden", "grand", "hardy", "hazel", "honest", "humble", "jolly", "keen", "kind", "lively", "lucid",
  "lucky", "mellow", "merry", "mighty", "misty", "modest", "nimble", "noble", "patient", "placid", "plucky", "proud",
  "quiet", "rapid", "rustic", "sage", "serene", "silent", "silver", "snug", "sober", "spry", "stout", "sunny", "swift",
  "tidy", "upbeat", "vivid", "warm", "wise", "witty", "zesty",
}

local NOUNS = {
  "acorn", "anchor", "badger", "barge", "basin", "bay", "beacon", "birch", "brook", "canoe", "canyon", "cedar",
  "comet", "coral", "cove", "crane", "current", "dam", "delta", "dune", "eddy", "ember", "falcon", "fern", "ferry",
  "fjord", "ford", "geyser", "glacier", "grove", "harbor", "heron", "islet", "kayak", "kelp", "kingfisher", "lagoon",
  "lantern", "maple", "marsh", "meadow", "mill", "minnow", "moss", "oar", "orchard", "osprey", "otter", "pebble",
  "pike", "pine", "pond", "quarry", "raft", "reed", "reef", "ripple", "salmon", "shore", "sluice", "spring", "stream",
  "swan", "thicket", "tide", "trout", "valley", "wharf", "willow",
}

--- A random `adjective-noun` that is not taken.
---@param taken table<string, any>
---@return string
function names.pick(taken)
  local name
  for _ = 1, 200 do
    name = ADJECTIVES[math.random(#ADJECTIVES)] .. "-" .. NOUNS[math.random(#NOUNS)]
    if not taken[name] then return name end
  end
  -- So many models that luck no longer helps: number them.
  local number = 2
  while taken[name .. "-" .. number] do number = number + 1 end
  return name .. "-" .. number
end

--- A random identifier in the form of a UUID of version 4.
---@return string
function names.identifier()
  local a, b = math.random(0), math.random(0)
  return ("%08x-%04x-4%03x-%04x-%012x"):format(a >> 32, (a >> 16) & 0xffff, a & 0xfff,
    0x8000 | (b >> 48) & 0x3fff, b & 0xffffffffffff)
end

return names
