-- Call again the coordinators that never came, that vanished, or whose pause is over. Returns how many.
local room = redis.call('ZCARD', P .. 'callbacks') - redis.call('LLEN', P .. 'mq:coordinate')
local touched = 0
for _, run in ipairs(redis.call('ZRANGEBYSCORE', P .. 'callbacks', '-inf', now, 'LIMIT', 0, 500)) do
  if not redis.call('HGET', key(run), 'coordinator') then
    redis.call('ZREM', P .. 'callbacks', run)
  elseif room > 0 then -- one message a run will do, however long nobody listens
    summon(run)
    room = room - 1
    touched = touched + 1
  end
end
return touched
