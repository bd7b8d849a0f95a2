--- Data sets of the public hub, by its rows API: pages of a hundred rows, kept on the disk.
--
--     GET /splits?dataset=…                                     which configurations and splits there are
--     GET /rows?dataset=…&config=…&split=…&offset=…&length=100  a page
--
-- Pages are kept one by one, so a download that was cut off goes on where it stopped, and a data set that is there
-- needs no network any more. A token goes to the hub's own host, or to a server that the same call names, and nowhere
-- else.

local cache_of = require "training.dataset_cache"
local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local rest = require "training.rest"
local task = require "riverlua.task"
local url = require "riverlua.url"

local hub = {}

hub.SERVER = "https://datasets-server.huggingface.co"

local WHERE = "datasets.load"
local PAGE = 100
local ATTEMPTS, CONCURRENCY, MAX_ROWS, MAX_BYTES, MAX_PAGE_BYTES = 6, 4, 1000000, 4 << 30, 128 << 20
local LONGEST_LOCK = 600

local encode = json.encoder{sort = true}
local decode = json.decoder{drop_null = true}

local function fail(message, hint)
  errors.raise{kind = "argument", message = ("%s: %s"):format(WHERE, message), hint = hint}
end

hub.OPTIONS = {config = true, split = true, limit = true, token = true, server = true, cache = true, refresh = true,
  offline = true, truncated = true, concurrency = true, attempts = true, timeout = true, max_rows = true,
  transport = true}
for name in pairs(rest.HTTP_OPTIONS) do hub.OPTIONS[name] = true end

-- ------------------------------------------------------------------------------------------------------- settings

local function is_set(name)
  local value = (os.getenv(name) or ""):lower()
  return value == "1" or value == "true" or value == "yes" or value == "on"
end

local function is_hub(server)
  local parts = url.parse(server)
  return parts ~= nil and parts.scheme == "https" and (parts.host == "huggingface.co"
    or parts.host:find("%.huggingface%.co$") ~= nil)
end

-- The token that may go to this server, or nil.
local function token_for(server, options)
  local token = options.token
  if token == false then return nil end
  if token == nil then
    token = os.getenv("HF_TOKEN")
    if not is_hub(server) then return nil end
  else
    errors.expect(WHERE, "token", token, "string")
    if not is_hub(server) and options.server == nil then
      fail("the token is not sent: the environment leads to another server than the hub's",
        "unset HF_DATASETS_SERVER, or name that server with server =")
    end
  end
  token = (token or ""):match("^%s*(.-)%s*$")
  if token:find("[%s%c]") then fail("the token has spaces or control characters in it") end
  return token ~= "" and token or nil
end

local function positive(options, name, default)
  local value = options[name]
  if value == nil then return default end
  errors.expect(WHERE, name, value, "integer")
  if value < 1 then fail(("'%s' must be at least 1"):format(name)) end
  return value
end

local function text_option(options, name)
  local value = errors.expect(WHERE, name, options[name], "string|nil")
  if value == "" then fail(("'%s' is empty"):format(name)) end
  return value
end

local function cache_root(given)
  if given == false then return nil end
  if given == nil or given == true then return cache_of.root() end
  errors.expect(WHERE, "cache", given, "string|boolean")
  if given == "" then fail("'cache' is empty") end
  return (given:gsub("(.)/+$", "%1"))
end

local function settings_of(name, options)
  local named = os.getenv("HF_DATASETS_SERVER")
  local given = options.server
  if given == nil then given = named and named:find("%S") and named or hub.SERVER end
  local server = rest.base_url(WHERE, "server", given)
  local truncated = options.truncated or "error"
  if truncated ~= "error" and truncated ~= "keep" then fail("truncated is \"error\" or \"keep\"") end
  local offline = errors.expect(WHERE, "offline", options.offline, "boolean|nil")
  if offline == nil then offline = is_set("HF_DATASETS_OFFLINE") or is_set("HF_HUB_OFFLINE") end
  return {
    name = name, server = server, token = token_for(server, options), root = cache_root(options.cache),
    refresh = errors.expect(WHERE, "refresh", options.refresh, "boolean|nil") == true and not offline,
    offline = offline, keep_cut = truncated == "keep", limit = positive(options, "limit", nil),
    max_rows = positive(options, "max_rows", MAX_ROWS), concurrency = positive(options, "concurrency", CONCURRENCY),
  }
end

-- ---------------------------------------------------------------------------------------------------------- asking

local HINTS = {
  auth = "is the name right? Private and gated data sets need a token of the hub (HF_TOKEN)",
  not_found = "is the name right? Private and gated data sets need a token of the hub (HF_TOKEN)",
}

local function open_rest(settings, options)
  local all = {base_url = settings.server, secret = settings.token,
    attempts = positive(options, "attempts", ATTEMPTS),
    timeout = errors.expect(WHERE, "timeout", options.timeout, "number|nil"), transport = options.transport,
    max_body = MAX_PAGE_BYTES, decompress = true,
    headers = {Accept = "application/json", Authorization = settings.token and "Bearer " .. settings.token or nil}}
  for name in pairs(rest.HTTP_OPTIONS) do all[name] = options[name] end
  return rest.new(all)
end

local function ask(state, path, query)
  local settings = state.settings
  if settings.offline then
    errors.raise{kind = "not_found", retryable = false,
      message = ("%s '%s': not all of it is in the cache, and the network is not to be used"):format(WHERE,
        settings.name), hint = "offline, HF_DATASETS_OFFLINE, HF_HUB_OFFLINE"}
  end
  state.rest = state.rest or open_rest(settings, state.options)
  local call = {method = "GET", path = path .. "?" .. url.encode_form(query), null = true, hints = HINTS,
    context = ("%s '%s'"):format(WHERE, settings.name)}
  local body, res = state.rest:request(call)
  return body, res, call
end

-- ---------------------------------------------------------------------------------------------- choosing a split

-- All configurations and splits, as a list of {config =, split =}.
local function splits_of(state)
  local settings = state.settings
  local kept = settings.root and cache_of.of(settings.root, state.host, settings.name)
  local list = kept and not settings.refresh and kept:read("splits.json")
  if list then return list end
  local body, res, call = ask(state, "/splits", {dataset = settings.name})
  if not json.is_array(body.splits) then state.rest:garbled(call, "the answer has no list 'splits'", res) end
  list = {}
  for i, one in ipairs(body.splits) do
    if type(one) ~= "table" or type(one.config) ~= "string" or type(one.split) ~= "string" then
      state.rest:garbled(call, ("splits[%d] is no split"):format(i), res)
    end
    list[i] = {config = one.config, split = one.split}
  end
  if kept then kept:write("splits.json", encode(list)) end
  return list
end

-- The one of several names that is meant: the only one, or the usual one.
local function choose(settings, what, names, usual)
  if #names == 1 then return names[1] end
  for _, name in ipairs(names) do
    if name == usual then return name end
  end
  if #names == 0 then
    errors.raise{kind = "not_found", message = ("%s '%s': there is no %s"):format(WHERE, settings.name, what)}
  end
  fail(("'%s' has several %ss"):format(settings.name, what),
    ("say which: %s = \"%s\""):format(what, table.concat(names, "\" or \"")))
end

local function unknown(settings, what, given, names)
  local near = errors.suggest(given, names)
  errors.raise{kind = "not_found", message = ("%s '%s': there is no %s '%s'"):format(WHERE, settings.name, what, given),
    hint = near and ("did you mean '%s'?"):format(near) or "there are: " .. table.concat(names, ", ")}
end

-- The configuration and split to load.
local function place_of(state, config, split)
  local settings = state.settings
  if config and split then return config, split end
  local configs, by_config = {}, {}
  for _, one in ipairs(splits_of(state)) do
    if not by_config[one.config] then
      configs[#configs + 1], by_config[one.config] = one.config, {}
    end
    table.insert(by_config[one.config], one.split)
  end
  config = config or choose(settings, "config", configs, "default")
  if not by_config[config] then unknown(settings, "config", config, configs) end
  return config, split or choose(settings, "split", by_config[config], "train")
end

-- ----------------------------------------------------------------------------------------------------------- pages

-- Pages with rows that were cut short have names of their own: who wants whole rows must not find them.
local function page_name(offset, is_cut) return ("%s-%09d.json"):format(is_cut and "cut" or "rows", offset) end

-- The rows of a page's answer as JSON text, what it says about the data set, and whether rows are cut short; checked.
local function read_page(state, offset, body, res, call)
  local settings = state.settings
  local total = body.num_rows_total
  if math.type(total) ~= "integer" or total < 0 or not json.is_array(body.rows) then
    state.rest:garbled(call, "the answer is no page of rows", res)
  end
  local wanted = math.max(0, math.min(PAGE, total - offset))
  if #body.rows ~= wanted then
    state.rest:garbled(call, ("a page of %d rows at %d, not %d"):format(#body.rows, offset, wanted), res)
  end
  local page, is_cut = json.array{}, false
  for i, one in ipairs(body.rows) do
    local number = offset + i - 1
    if type(one) ~= "table" or one.row_idx ~= number or type(one.row) ~= "table" or json.is_array(one.row) then
      state.rest:garbled(call, ("row %d of the page at %d is not row %d"):format(i, offset, number), res)
    end
    local cut = one.truncated_cells
    cut = type(cut) == "table" and cut[1]
    is_cut = is_cut or cut ~= nil and cut ~= false
    if cut and not settings.keep_cut then
      errors.raise{kind = "limit", message = ("%s '%s': the server cut row %d short, in '%s'"):format(WHERE,
        settings.name, number + 1, tostring(cut)),
        hint = "truncated = \"keep\" takes such rows as they are; a file of the data set has them whole"}
    end
    page[i] = one.row
  end
  local columns = json.array{}
  for i, feature in ipairs(json.is_array(body.features) and body.features or {}) do
    if type(feature) ~= "table" or type(feature.name) ~= "string" then
      state.rest:garbled(call, ("features[%d] has no name"):format(i), res)
    end
    columns[i] = feature.name
  end
  return encode(page), {total = total, columns = columns, partial = body.partial == true,
    revision = res.headers["x-revision"]}, is_cut
end

local CHANGED = {}   -- raised when the data set is another one now

-- Downloads a page and keeps it; → its rows, and what it says about the data set.
local function download(state, offset)
  local body, res, call = ask(state, "/rows", {dataset = state.settings.name, config = state.config,
    split = state.split, offset = offset, length = PAGE})
  local text, info, is_cut = read_page(state, offset, body, res, call)
  local known = state.info
  local moved = known and info.revision and known.revision and info.revision ~= known.revision
  if known and (moved or info.total ~= known.total) then error(CHANGED, 0) end
  state.bytes = state.bytes + #text
  if state.bytes > MAX_BYTES then
    errors.raise{kind = "limit", message = ("%s '%s': more than %d bytes of rows"):format(WHERE, state.settings.name,
      MAX_BYTES), hint = "limit = … takes the first rows only"}
  end
  if state.cache then state.cache:write(page_name(offset, is_cut), text) end
  return decode(text), info
end

-- A page that was kept, when it has as many rows as it should.
local function kept_page(state, offset)
  if not state.cache then return nil end
  local page = state.cache:read(page_name(offset))
  if not page and state.settings.keep_cut then page = state.cache:read(page_name(offset, true)) end
  if type(page) ~= "table" or #page ~= math.min(PAGE, state.info.total - offset) then return nil end
  return page
end

-- What is known of the data set: kept, or from its first page.
local function learn_info(state)
  local info = state.cache and state.cache:read("info.json")
  if type(info) == "table" and math.type(info.total) == "integer" then
    state.info = info
    return
  end
  state.pages[0], state.info = download(state, 0)
  if state.cache then state.cache:write("info.json", encode(state.info)) end
end

local function check_size(state)
  local settings = state.settings
  local wanted = math.min(settings.limit or state.info.total, state.info.total)
  if wanted > settings.max_rows then
    errors.raise{kind = "limit", message = ("%s '%s': %d rows, and at most %d are loaded"):format(WHERE, settings.name,
      wanted, settings.max_rows), hint = "limit = … takes the first rows only; max_rows = … allows more"}
  end
  return wanted
end

-- The offsets of the pages that are not there yet; those that are go into state.pages.
local function missing_pages(state, wanted)
  local missing = {}
  for offset = 0, wanted - 1, PAGE do
    state.pages[offset] = state.pages[offset] or kept_page(state, offset)
    if not state.pages[offset] then missing[#missing + 1] = offset end
  end
  return missing
end

local function fetch(state)
  learn_info(state)
  local wanted = check_size(state)
  task.map(missing_pages(state, wanted), function(offset)
    state.pages[offset] = download(state, offset)
  end, {concurrency = state.settings.concurrency})
  return wanted
end

-- Waits until nobody else downloads the same.
local function wait_for_lock(state)
  local deadline = clock.now() + LONGEST_LOCK
  while true do
    local lock = state.cache:lock()
    if lock then return lock end
    if clock.now() >= deadline then
      errors.raise{kind = "storage", message = ("%s '%s': another process has been downloading it for %d s"):format(
        WHERE, state.settings.name, LONGEST_LOCK), hint = "wait for it, or take another folder with cache ="}
    end
    clock.pause(0.1, false)
  end
end

-- Everything from the cache, without a lock or a network; nil when something is not there.
local function load_kept(state)
  if not state.cache or state.settings.refresh then return nil end
  local info = state.cache:read("info.json")
  if type(info) ~= "table" or math.type(info.total) ~= "integer" then return nil end
  state.info = info
  local wanted = check_size(state)
  if #missing_pages(state, wanted) > 0 then return nil end
  return wanted
end

local function forget(state)
  state.info, state.pages, state.bytes = nil, {}, 0
  if state.cache then state.cache:clear() end
end

-- Downloads what is missing; once more from the beginning when the data set has changed meanwhile.
local function load_missing(state)
  local _ <close> = state.cache and not state.settings.offline and wait_for_lock(state) or nil
  state.pages, state.info = {}, nil
  if state.settings.refresh then forget(state) end
  for attempt = 1, 2 do
    local ok, wanted = pcall(fetch, state)
    if ok then return wanted end
    if wanted ~= CHANGED then error(wanted, 0) end
    if attempt == 2 then
      errors.raise{kind = "protocol", retryable = true, message = ("%s '%s': the data set changed while it was loaded")
        :format(WHERE, state.settings.name)}
    end
    forget(state)
  end
end

--- Loads a data set of the hub; see training.datasets.load.
---@param name string
---@param options table
---@return table[] list
---@return string[] columns
---@return table info
function hub.load(name, options)
  errors.check_options(WHERE, options, hub.OPTIONS)
  local settings = settings_of(name, options)
  local state = {settings = settings, options = options, pages = {}, bytes = 0,
    host = settings.server == hub.SERVER and "hub" or url.without_userinfo(settings.server):gsub("^%a+://", "")}
  local _ <close> = setmetatable({}, {__close = function()
    if state.rest then state.rest:close() end
  end})
  state.config, state.split = place_of(state, text_option(options, "config"), text_option(options, "split"))
  if settings.root then
    state.cache = cache_of.of(settings.root, state.host, name, state.config, state.split)
  end
  local wanted = load_kept(state)
  local from_cache = wanted ~= nil
  wanted = wanted or load_missing(state)
  local list = {}
  for offset = 0, wanted - 1, PAGE do
    local page = state.pages[offset]
    table.move(page, 1, math.min(#page, wanted - offset), #list + 1, list)
  end
  local info = state.info
  return list, #info.columns > 0 and info.columns or nil, {source = name, config = state.config, split = state.split,
    revision = info.revision, partial = info.partial or nil, total = info.total, cached = from_cache,
    folder = state.cache and state.cache.path}
end

return hub
