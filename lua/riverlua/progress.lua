--- Progress of a long loop: a bar on a terminal, plain lines elsewhere, nothing with `--quiet`.
--
--     local bar <close> = progress.bar{total = 1000, label = "learning", unit = "samples"}
--     for i = 1, 1000 do … bar:update(i, {mae = 0.12}) end
--
--     for sample in progress.each(samples, {label = "learning"}) do … end
--
-- Everything goes to the standard error stream. The cursor is never hidden, so an error leaves the terminal as it was.

local terminal = require("riverlua.terminal")
local clock = require("riverlua.core.terminal").clock

local progress = {}

local REDRAW = 0.1      -- seconds between two drawings on a terminal
local STEPS = 10        -- plain lines for a whole
local PATIENCE = 10     -- seconds after which a plain line comes anyway
local SETTLED = 0.5     -- seconds before the rate means anything
local EIGHTHS = {[0] = "", "▏", "▎", "▍", "▌", "▋", "▊", "▉"}
local MIN_BAR, MAX_BAR = 5, 40

local forced -- what progress.quiet was told; nil: nothing

--- Switches all output of later bars off (true) or on (false), whatever the command line says.
---@param silent boolean
function progress.quiet(silent)
  forced = silent
end

--- Whether bars show nothing: `--quiet`, RIVERLUA_QUIET or `progress.quiet(true)`.
---@return boolean
function progress.is_quiet()
  if forced ~= nil then return forced end
  local cli = package.loaded["riverlua.cli"]
  if cli and cli.quiet then return true end
  return (os.getenv("RIVERLUA_QUIET") or "") ~= ""
end

-- ---------------------------------------------------------------------------------------------------------
-- Texts

local function show_value(value)
  if math.type(value) == "float" then return ("%.4g"):format(value) end
  return tostring(value)
end

-- {mae = 0.12, n = 3} as "mae=0.12 n=3", by name.
local function show_fields(fields)
  local names = {}
  for name in pairs(fields) do names[#names + 1] = tostring(name) end
  table.sort(names)
  for i, name in ipairs(names) do names[i] = name .. "=" .. show_value(fields[name]) end
  return table.concat(names, " ")
end

local function show_seconds(seconds)
  seconds = math.floor(seconds + 0.5)
  if seconds < 3600 then return ("%d:%02d"):format(seconds // 60, seconds % 60) end
  return ("%d:%02d:%02d"):format(seconds // 3600, seconds // 60 % 60, seconds % 60)
end

local function show_rate(rate)
  if rate >= 100 then return ("%.0f/s"):format(rate) end
  if rate >= 1 then return ("%.1f/s"):format(rate) end
  return ("%.2g/s"):format(rate)
end

local function show_count(bar)
  local text = show_value(bar.done)
  if bar.total then text = text .. "/" .. show_value(bar.total) end
  return bar.unit and text .. " " .. bar.unit or text
end

local function part_done(bar)
  if not bar.total or bar.total <= 0 then return bar.total and 1 or nil end
  return math.max(0, math.min(1, bar.done / bar.total))
end

local function blocks(bar, part, width)
  if not bar.fine then
    local full = math.floor(part * width)
    return "[" .. ("#"):rep(full) .. ("-"):rep(width - full) .. "]"
  end
  local steps = math.floor(part * width * 8)
  local text = ("█"):rep(steps // 8) .. EIGHTHS[steps % 8]
  return "▕" .. terminal.pad(text, width) .. "▏"
end

-- The line on the terminal, at most `columns` wide: the less important parts go first where room is short.
local function bar_line(bar, columns)
  local part = part_done(bar)
  local elapsed = clock() - bar.started
  local parts = {}
  if part then parts[#parts + 1] = ("%3d%%"):format(math.floor(part * 100)) end
  parts[#parts + 1] = show_count(bar)
  local rate = elapsed >= SETTLED and bar.done / elapsed or 0
  if rate > 0 then
    parts[#parts + 1] = show_rate(rate)
    if bar.over then
      parts[#parts + 1] = show_seconds(elapsed)
    elseif part and part < 1 then
      parts[#parts + 1] = "ETA " .. show_seconds((bar.total - bar.done) / rate)
    end
  end
  local fields = bar.fields and show_fields(bar.fields) or ""
  local label = bar.label and bar.label .. " " or ""
  local function room()
    local text = table.concat(parts, "  ") .. (fields ~= "" and "  " .. fields or "")
    return columns - terminal.width(label) - terminal.width(text) - 3, text
  end
  local left, text = room()
  while left < MIN_BAR and #parts > 2 do
    parts[#parts] = nil
    left, text = room()
  end
  if part and left >= MIN_BAR then
    -- Never wider than before: a bar that breathes with the numbers beside it is hard to read.
    bar.width = math.min(left, bar.width)
    text = blocks(bar, part, bar.width) .. " " .. text
  end
  return terminal.clip(label .. text, columns)
end

local function plain_line(bar)
  local part = part_done(bar)
  local text = bar.label and bar.label .. ": " or ""
  if part then text = text .. ("%d%% ("):format(math.floor(part * 100)) .. show_count(bar) .. ")"
  else text = text .. show_count(bar) end
  text = text .. ", " .. show_seconds(clock() - bar.started)
  if bar.fields then text = text .. ", " .. show_fields(bar.fields) end
  return text
end

-- ---------------------------------------------------------------------------------------------------------
-- The bar

---@class riverlua.Bar
local Bar = {}
Bar.__index = Bar
Bar.__name = "riverlua.Bar"

local function draw(bar)
  bar.drawn = clock()
  local columns = (terminal.size("stderr") or 80) - 1
  bar.stream:write("\r", bar_line(bar, columns), "\27[K")
  bar.stream:flush()
  bar.dirty = true
end

local function steps_done(bar)
  local part = part_done(bar)
  return part and math.floor(part * STEPS) or 0
end

local function say(bar)
  bar.drawn = clock()
  bar.said = steps_done(bar)
  bar.last = bar.done
  bar.stream:write(plain_line(bar), "\n")
  bar.stream:flush()
end

local function show(bar)
  if bar.mode == "quiet" then return end
  local now = clock()
  if bar.mode == "bar" then
    if not bar.dirty or now - bar.drawn >= REDRAW then draw(bar) end
    return
  end
  local steps = steps_done(bar)
  -- The last line belongs to close.
  if (steps > bar.said and steps < STEPS) or now - bar.drawn >= PATIENCE then say(bar) end
end

--- Says how far the loop is.
---@param done number how many are done
---@param fields table<string, any>|nil values to show beside the bar
function Bar:update(done, fields)
  if self.over then return end
  self.done = done
  if fields then self.fields = fields end
  show(self)
end

--- Counts on.
---@param count number|nil default 1
---@param fields table<string, any>|nil values to show beside the bar
function Bar:add(count, fields)
  self:update(self.done + (count or 1), fields)
end

--- Writes a line of text above the bar.
---@param text string
function Bar:note(text)
  if self.mode == "quiet" then return end
  if self.mode == "bar" and self.dirty then self.stream:write("\r\27[K") end
  self.stream:write(text, "\n")
  if self.mode == "bar" and not self.over then draw(self) end
end

--- Shows the last state and ends the line. Closing twice does nothing; `<close>` variables do it by themselves.
function Bar:close()
  if self.over then return end
  self.over = true
  if self.mode == "bar" then
    draw(self)
    self.stream:write("\n")
    self.stream:flush()
  elseif self.mode == "lines" and self.last ~= self.done then
    say(self)
  end
end

Bar.__close = Bar.close

-- A bar that was dropped must not leave the next output on its line.
function Bar:__gc()
  if self.mode == "bar" and self.dirty and not self.over then self.stream:write("\n") end
end

local OPTIONS = {total = true, label = true, unit = true, stream = true, terminal = true}

--- Makes a bar.
---@param options table|nil `total` (nil: unknown), `label`, `unit` ("samples"), `stream` (default io.stderr),
--- `terminal` (true: draw a bar, false: plain lines; default: whether standard error is a terminal)
---@return riverlua.Bar
function progress.bar(options)
  options = options or {}
  require("riverlua.errors").check_options("progress.bar", options, OPTIONS)
  local on_terminal = options.terminal
  if on_terminal == nil then
    on_terminal = options.stream == nil and terminal.is_terminal("stderr") and os.getenv("TERM") ~= "dumb"
  end
  local now = clock()
  return setmetatable({
    total = options.total, label = options.label, unit = options.unit, stream = options.stream or io.stderr,
    mode = progress.is_quiet() and "quiet" or on_terminal and "bar" or "lines",
    fine = on_terminal and terminal.is_utf8(),
    done = 0, started = now, drawn = now, said = 0, dirty = false, over = false, width = MAX_BAR,
  }, Bar)
end

--- Goes through a list or an iterator with a bar; the bar ends with the loop, also on `break` and on an error.
---
---     for sample, i in progress.each(samples, {label = "learning"}) do … end
---     for line in progress.each(io.lines("data.csv"), {unit = "lines"}) do … end
---@param items table|function a list, or an iterator called without arguments until it returns nil
---@param options table|nil as for progress.bar; `total` defaults to the length of the list
---@return function iterator for `for`: gives item, number
---@return nil
---@return nil
---@return riverlua.Bar closed by the loop
function progress.each(items, options)
  local settings = {}
  for name, value in pairs(options or {}) do settings[name] = value end
  local list = type(items) == "table" and items or nil
  if list and settings.total == nil then settings.total = #list end
  local bar = progress.bar(settings)
  local count = 0
  local function give(item, ...)
    if item == nil then return nil end
    count = count + 1
    if list then return item, count end
    return item, ...
  end
  local function following()
    if count > 0 then bar:update(count) end
    if list then return give(list[count + 1]) end
    return give(items())
  end
  return following, nil, nil, bar
end

return progress
