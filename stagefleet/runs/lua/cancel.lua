-- Cancel a run. ARGV: run, now ('1' or ''), error ('' for none).
-- Returns 1, 0 if it had ended, -1 if there is no such run.
local run, immediate, problem = ARGV[3], ARGV[4], ARGV[5]
local state = redis.call('HGET', key(run), 'state')
if not state then return -1 end
if state == 'succeeded' or state == 'failed' or state == 'cancelled' then return 0 end
cancel(run, immediate == '1', problem ~= '' and problem)
-- A pause may be long: what is to be told is tried now, and given up if it fails again.
if redis.call('HGET', key(run), 'coordinator') == 'paused' then enqueue_coordinator(run) end
return answer(1)
