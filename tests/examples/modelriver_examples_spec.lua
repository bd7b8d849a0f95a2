--- The examples of `modelriver`, run as a user would: without a key, in this process; with one, on a server.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(folder .. "../support/servers.lua")

local examples = dofile(folder .. "support.lua")

local run, has, INTERPRETER = examples.run, examples.has, examples.interpreter

local EMBEDDED = {
  ["modelriver_summary.lua"] = function(text)
    has(text, "In short: The launch went well.", "served by anthropic (claude-3-5-sonnet)",
      "try 1: openai error, timeout", "try 2: anthropic success", "enterprise customers", "1 requests")
  end,
  ["modelriver_chat.lua"] = function(text)
    has(text, "> Who wrote Faust?\nYou asked 1 thing so far.", "> And when?\nYou asked 2 things so far.",
      "5 messages in the conversation")
  end,
  ["modelriver_tools.lua"] = function(text)
    has(text, 'the model calls weather({"city":"Oslo"})', 'the model calls weather({"city":"Lisbon"})',
      "Oslo: -3 degrees, Lisbon: 17 degrees.", "2 rounds, 5 messages")
  end,
  ["modelriver_extract.lua"] = function(text)
    has(text, "at first:\t/total\t", "invoice 2026-117: 42.50 for 1 item(s), after one repair")
  end,
  ["modelriver_batch.lua"] = function(text)
    has(text, "document 13 cannot be read", "document 39 cannot be read", "37 of 40 done", "document 1: done")
  end,
  ["modelriver_events.lua"] = function(text)
    has(text, "webhook: new_movie_suggestion suggests Heat", "job: completed",
      "Heat: 3 in stock (task movie-1)")
  end,
}

local names = {}
for name in pairs(EMBEDDED) do names[#names + 1] = name end
table.sort(names)

describe("the example of modelriver on embedded:", function()
  for _, name in ipairs(names) do
    it(name, function() EMBEDDED[name](run(name)) end)
  end

  it("is checked, each of them", function()
    for name in require("lfs").dir("examples") do
      if name:find("^modelriver_.*%.lua$") then assert.is_function(EMBEDDED[name], name) end
    end
  end)
end)

describe("the example of modelriver on a server", function()
  local server

  setup(function() server = servers.start{servers.python(), servers.folder .. "stub_modelriver.py"} end)
  teardown(function() server:close() end)

  local function live(name, workflow, argument)
    return run(name, {MODELRIVER_API_KEY = server.info.keys.good, MODELRIVER_API_URL = server:url(),
      MODELRIVER_WORKFLOW = workflow}, argument)
  end

  it("modelriver_summary.lua", function()
    has(live("modelriver_summary.lua", "text:Well.+failover"), "Well.", "served by anthropic", "try 1: openai error",
      "try 2: anthropic success", "enterprise customers")
  end)

  it("modelriver_chat.lua", function()
    has(live("modelriver_chat.lua", "echo+chars:3", "One Two"), "> One\nOne\n", "> Two\nTwo\n", "5 messages")
  end)

  it("modelriver_tools.lua", function()
    has(live("modelriver_tools.lua", "tools"), "the model calls weather(", "Tools said: ", "2 rounds, 4 messages")
  end)

  it("modelriver_extract.lua", function() has(live("modelriver_extract.lua", "structured"), "right at once") end)

  it("modelriver_batch.lua", function()
    has(live("modelriver_batch.lua", "echo", "20"), "20 of 20 done; the first said: Process document 1.")
  end)
end)

describe("the example of modelriver on riverlua serve modelriver", function()
  it("modelriver_events.lua", function()
    local workflows = os.tmpname()
    local file <close> = assert(io.open(workflows, "w"))
    file:write([[require("modelriver").embedded.workflow("films", {event_name = "new_movie_suggestion",
      respond = function() return {title = "Heat", year = 1995} end})]])
    file:close()
    local server <close> = servers.start{INTERPRETER, "serve", "modelriver", "--json", "--stdin", "--port", "0",
      "--workflows", workflows, "--key", "mr_live_example", "--webhook_secret", "whsec_example"}
    local text = run("modelriver_events.lua", {MODELRIVER_API_KEY = "mr_live_example",
      MODELRIVER_API_URL = server.info.url, MODELRIVER_WORKFLOW = "films", MODELRIVER_WEBHOOK_SECRET = "whsec_example"})
    EMBEDDED["modelriver_events.lua"](text)
    os.remove(workflows)
  end)
end)
