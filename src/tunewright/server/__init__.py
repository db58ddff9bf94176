"""A trained model over HTTP. Only this package knows HTTP.

    app = build_app(tw.load("runs/reviews"))      # an ASGI application
    serve("runs/reviews", port=8080)              # with a server around it, until it is stopped

A request goes through `guard` (key, size, time), its route, `inputs` (JSON to rows), the queue that
batches requests (`prediction.queue`), and `shapes` (answers to JSON). Routes and their bodies are
those of text-embeddings-inference, OpenAI and Cohere, so that clients of these work unchanged.
"""
