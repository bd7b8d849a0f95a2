/*
 * Fuzz target: the answers that are looked for in models' texts (lua/training/rewards.lua).
 *
 * Nothing raises, whatever the text; what a box holds stands in the text and is found again when it is put into a box
 * (if its braces are whole); a number's form is its own form; the reward is 1.0 for the right answer in a box.
 * Run from the top folder: the Lua files are read from lua/.
 */
#include "fuzz_lua.h"

/* The first byte says whether the rest is the text, or names its pieces. */
static const char check_source[] =
    "local rewards = require 'training.rewards'\n"
    "local pieces = {'\\\\boxed{', '\\\\boxed', '{', '}', '}', '\\\\', '\\\\\\\\', '\\\\{', '\\\\}', '\\\\fbox{',\n"
    "  ' ', '\\n', '#### ', '####', '$', ',', '.', '-', '+', '1', '0', '234', '1,234', 'e', 'e5', '\\\\,', '{,}',\n"
    "  'x', '\\xff'}\n"
    "return function(input)\n"
    "  local how = input:byte()\n"
    "  if not how then return end\n"
    "  local text = input:sub(2)\n"
    "  if how % 2 == 0 then\n"
    "    text = text:gsub('.', function(char) return pieces[char:byte() % #pieces + 1] end)\n"
    "  end\n"
    "  local box = rewards.extract_boxed(text)\n"
    "  if box then\n"
    "    if not text:find(box, 1, true) then error('a box that is not there') end\n"
    "    local again = rewards.extract_boxed('\\\\boxed{' .. box .. '}')\n"
    "    local open = box:find('\\\\$')   -- it took the blank that stood behind it\n"
    "    if not again and not open then error('a box is lost') end\n"
    "    if not box:find('boxed', 1, true) and not open and again ~= box then error('another box') end\n"
    "    if box ~= '' and not box:find('#', 1, true) and rewards.boxed(text, box) ~= 1.0 then error('not right') end\n"
    "  end\n"
    "  local gold = rewards.extract_gsm8k_answer(text)\n"
    "  if gold and not gold:find('%S') then error('an empty answer') end\n"
    "  if (gold ~= nil) and not text:find('####', 1, true) then error('an answer from nowhere') end\n"
    "  local number = rewards.number(text)\n"
    "  if number then\n"
    "    if not number:find('^%-?%d+$') and not number:find('^%-?%d+%.%d*[1-9]$') then error('form: ' .. number) end\n"
    "    if #number < 4000 and rewards.number(number) ~= number then error('no fixed form: ' .. number) end\n"
    "    if not rewards.same_number(text, text) then error('unlike itself') end\n"
    "  end\n"
    "  local reward = rewards.boxed(text, text)\n"
    "  if reward ~= 0.0 and reward ~= 1.0 then error('reward') end\n"
    "end\n";

static const fuzz_lua target = {.name = "fuzz_rewards", .source = check_source, .memory = (size_t)32 << 20};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
