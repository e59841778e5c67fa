-- What scripts have of Lua: nothing that reaches outside, and nothing that is busy where instructions are not counted.

local call, log = ...
local string, table, math, utf8 = string, table, math, utf8
local type, error, select, setmetatable, tostring = type, error, select, setmetatable, tostring

local rep, floor, unpack, random, randomseed = string.rep, math.floor, table.unpack, math.random, math.randomseed

string.dump = nil
string.rep = function(s, n, sep)
  s, sep = tostring(s), tostring(sep or "")
  if #s + #sep == 0 then return "" end
  return rep(s, n, sep)
end

table.insert = function(t, ...)
  local count = #t
  if select("#", ...) == 1 then
    t[count + 1] = (...)
    return
  end
  local at, value = ...
  if type(at) ~= "number" or at < 1 or at > count + 1 then error("position out of bounds", 2) end
  for i = count, at, -1 do t[i + 1] = t[i] end
  t[at] = value
end

table.remove = function(t, at)
  local count = #t
  if at == nil then at = count end
  local value = t[at]
  for i = at, count - 1 do t[i] = t[i + 1] end
  if count > 0 then t[count > at and count or at] = nil end
  return value
end

table.move = nil

local sort = table.sort
table.sort = function(t, before)
  if #t > 1000000 then error("too much to sort", 2) end
  return sort(t, before)
end

local concat = table.concat
table.concat = function(t, sep, first, last)
  first, last = first or 1, last or #t
  if last - first > 10000000 then error("too much to join", 2) end
  return concat(t, sep, first, last)
end

-- Read only: what one command makes of them is nothing to the next.
local function fixed(of)
  return setmetatable({}, {
    __index = of,
    __newindex = function() error("the libraries cannot be changed", 2) end,
    __metatable = false,
  })
end

local base = {
  assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, select = select,
  tonumber = tonumber, tostring = tostring, type = type, unpack = unpack, _VERSION = _VERSION,
  string = fixed(string), table = fixed(table), math = fixed(math), utf8 = fixed(utf8),
}
local inherit = { __index = base, __metatable = false }

-- The globals of one command. A script may change what it is given, but not what the next command is given.
return function(db, cmd, group, phase, argv, keys, indexes, slots)
  randomseed(1)
  local own = { call = call, log = log }
  return setmetatable({
    DB = db, CMD = cmd, GROUP = group, PHASE = phase, ARGV = argv, KEYS = keys, KEY_INDEXES = indexes, SLOTS = slots,
    keyferry = own, shake = own,
  }, inherit)
end
