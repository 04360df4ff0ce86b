-- Find runs, the newest first. It writes nothing, but for entries of expired runs that it removes from the index.
-- ARGV: position after which to look ('' for the newest, else "SCORE RUN"), most runs to find, most to look at,
--       operation ('' for any), text in source, destination or project ('' for any, escaped as in `subject`), states...
-- Returns how many runs there are, the position to go on from ('' if there are no more), runs...
local CHUNK = 100
local position, most, looks, operation, text = ARGV[3], integer(ARGV[4]), integer(ARGV[5]), ARGV[6], ARGV[7]
local index, wanted = P .. 'runs', nil
for n = 8, #ARGV do
  wanted = wanted or {}
  wanted[ARGV[n]] = true
end

local function first_rank()
  local score, run = string.match(position, '^(%S+) (%S+)$')
  if not score then return 0 end
  local rank = redis.call('ZREVRANK', index, run)
  return rank and rank + 1 or redis.call('ZCOUNT', index, '(' .. score, '+inf') -- it has expired since
end

local function fits(state, subject)
  local first, last, named = string.find(subject, "^'operation': '([^']*)'")
  return (not wanted or wanted[state]) and (operation == '' or named == operation)
    and (text == '' or string.find(subject, text, first and last + 1 or 1, true) ~= nil)
end

local answers, expired = { redis.call('ZCARD', index), '' }, {}
local rank, looked = first_rank(), 0
local function look()
  while true do
    local entries = redis.call('ZREVRANGE', index, rank, rank + CHUNK - 1, 'WITHSCORES')
    for n = 1, #entries, 2 do
      local run = entries[n]
      local fields = redis.pcall('HMGET', key(run), 'state', 'subject', 'paused') -- a damaged run must not hide others
      looked = looked + 1
      if fields.err or fields[1] then
        local state = fields[1] == 'running' and fields[3] and 'paused' or fields[1]
        if fits(state or 'unreadable', fields[2] or '') then answers[#answers + 1] = run end
      else
        expired[#expired + 1] = run
      end
      if #answers - 2 >= most or looked >= looks then
        answers[2] = entries[n + 1] .. ' ' .. run
        return
      end
    end
    if #entries < 2 * CHUNK then return end
    rank = rank + CHUNK
  end
end
look()
for _, run in ipairs(expired) do redis.call('ZREM', index, run) end
return answers
