-- End a run as failed that has not started. ARGV: run, token, error.
-- Returns 1, or 0 if another submitter has the run, or it has started or ended.
local run, token, problem = ARGV[3], ARGV[4], ARGV[5]
local state, holder = unpack(redis.call('HMGET', key(run), 'state', 'token'))
if state ~= 'submitting' or holder ~= token then return 0 end
write_at_maxmemory()
fail_unstarted(run, problem)
return answer(1)
