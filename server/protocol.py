"""Frames to client events and server events to frames: the OpenAI Realtime protocol, with no sockets.

A text frame is one JSON event; a binary frame, an extension, is raw audio in the session's input format (PCM16 little
endian by default), the same as `input_audio_buffer.append`. What is wrong with a frame comes back as a `Refused`, which
the conversation answers with the protocol's `error`; no frame raises.

    protocol = Protocol(beta=False)              # beta: the client sent `OpenAI-Beta: realtime=v1`; it gets beta names
    event = protocol.receive(frame)              # str | bytes -> events.ClientEvent | events.Refused
    text = protocol.send(server_event)           # events.ServerEvent -> str
"""
