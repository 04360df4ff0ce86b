-- Cancel a run. ARGV: run, now ('1' or ''), error ('' for none).
-- Returns 1, 0 if it had ended, -1 if there is no such run.
local run, immediate, problem = ARGV[3], ARGV[4], ARGV[5]
local state = redis.call('HGET', key(run), 'state')
if not state then return -1 end
if state == 'succeeded' or state == 'failed' or state == 'cancelled' then return 0 end
cancel(run, immediate == '1', problem ~= '' and problem)
return answer(1)
