"""glsnet: coupling without communication, over a real network.

An encoder draws Y from its own distribution, K decoders draw X(1), ..., X(K) from theirs, all from one shared seed,
and as often as possible some X(k) equals Y. What crosses the network is indices, bit-packed, and nothing else.

The parts, in the order in which data meets them:

    sources       samples and side information: what a party knows, as weights over codewords, and reconstructions
    randomness    shared randomness: a pure function of key and counter, the same to the bit on every machine
    race          the one primitive: which arrival of a shared Poisson process a party takes
    coupling      each party's half of every coupling over a finite alphabet, with and without messages
    bounds        what theory promises
    bits, frames  indices to bits, frames to bytes
    compression   the encoder's and the decoder's session: frames in, frames out, no I/O
    transport     sessions over gRPC: data plane, control plane, metering proxy, serving process
    lab           Nature and the experimenter: settings, runs, results, the command line
    errors        whose fault it was
    v1            generated from proto/, never edited

The processes are in `encoder_service` and `decoder_service`.
"""
