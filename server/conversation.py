"""The state machine of a realtime session: client events and what the rooms found out go in, time is passed in; server
events and actions for the rooms come out. See `signals` for both; no sockets, no threads, no clock of its own.

    conversation = Conversation(session_id="sess_1", kind="realtime", model="small-en", resume_token="...")
    outputs = conversation.begin(now)       # now: integer nanoseconds of any monotonic clock
    outputs = conversation.step(input, now) # events.ClientEvent | events.Refused | signals.Input
    outputs = conversation.tick(now)        # due at conversation.wake_at (ns, or None) at the latest
    outputs = conversation.greet(now)       # after a reconnect: session.created again, with the same id
    outputs = conversation.end(now)         # closes every stream, watch, reply and speech

An output is either an `events.ServerEvent` (send `protocol.send(it)`) or a `signals.Action`.
"""
