"""glsnet: coupling without communication, over a real network.

An encoder draws Y from its own distribution, K decoders draw X(1), ..., X(K) from theirs, all from one shared seed,
and as often as possible some X(k) equals Y. What crosses the network is indices, bit-packed, and nothing else.

The parts, in the order in which data meets them:

    sources       samples and side information: what a party knows, as weights or quantisers' cells, and estimates
    randomness    shared randomness: a pure function of key and counter, the same to the bit on every machine
    race          the one primitive: which arrival of a shared Poisson process a party takes
    envelope      who wins a race as a function of its centre: all that shared randomness tells of a message
    coupling      each party's half of every coupling over a finite alphabet, with and without messages
    codes         each party's half of every code for a Gaussian source
    verification  each party's half of speculative decoding, without models
    language      language models: the embedded pair, Hugging Face
    bounds        what theory promises
    bits, entropy, rows, frames   indices and distributions to bytes, frames to bytes
    joining       how every session begins
    generation    a request for text, and what comes of it
    compression, conversation, drafting, speculation   the sessions: frames in, frames out, no I/O
    transport     sessions over gRPC: data plane, control plane, metering proxy, serving process
    lab           Nature and the experimenter: settings, runs, sweeps, results, reports, the command line
    errors        whose fault it was
    v1            generated from proto/, never edited

The processes are in `encoder_service` and `decoder_service`.
"""
