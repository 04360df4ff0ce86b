-- State of runs at one moment. ARGV: runs...
-- Returns the time in ms, and for each run its hash and the values for `Surroundings.read`. A script: Redis 6 refuses
-- reads in a transaction at `maxmemory`. A damaged run yields its readable part, so that it does not hide others.
local function attempt(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then return nil end
  return answer
end

local function read_run(run)
  local counts = {}
  for _, part in ipairs({ 'leases', 'published', 'waiting', 'behind' }) do
    counts[#counts + 1] = attempt('ZCARD', key(run, part)) or 0
  end
  local leased = attempt('ZRANGE', key(run, 'leases'), -1, -1, 'WITHSCORES') or {}
  local waiting = attempt('ZRANGE', key(run, 'waiting'), 0, 0, 'WITHSCORES') or {}
  return { attempt('HGETALL', key(run)) or {}, counts[1], counts[2], counts[3], counts[4],
    leased[2] or 0, waiting[2] or 0, attempt('ZSCORE', P .. 'callbacks', run) or 0 }
end

local answers = { now }
for n = 3, #ARGV do answers[#answers + 1] = read_run(ARGV[n]) end
return answers
