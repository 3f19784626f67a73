"""All culture models behind one endpoint: engine, api (OpenAI's), app (Ray Serve)."""
