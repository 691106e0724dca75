"""The scenarios that come with glsnet, installed as `glsnet.scenarios`: `glsnet sweep NAME` runs NAME.toml."""
