-- Butterflies drawn by rule: images with a known answer.

CREATE FUNCTION llm_butterfly(seed bigint) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 500 AS 'MODULE_PATHNAME', 'llm_butterfly_sql';
COMMENT ON FUNCTION llm_butterfly(bigint) IS
    'The butterfly of a seed, (32,32,3): rows from top to bottom, red, green and blue from -1 to 1, mirror-symmetric '
    'and the same on every machine. Seeds from 0 on are for training, negative seeds are held out';

CREATE FUNCTION llm_butterfly_batch(from_seed bigint, n int) RETURNS tensor
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 10000 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_butterfly_batch(bigint, int) IS 'The butterflies of n successive seeds, (n,32,32,3)';

CREATE FUNCTION llm_butterfly_factors(seed bigint, OUT palette text, OUT pattern text, OUT size float8,
    OUT height float8, OUT fore_reach float8, OUT fore_lift float8, OUT fore_round float8, OUT hind_reach float8,
    OUT hind_drop float8, OUT hind_round float8, OUT tail float8, OUT scallop float8, OUT margin float8,
    OUT glow float8, OUT mark_place float8, OUT mark_size float8, OUT antenna float8)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'llm_butterfly_factors_sql';
COMMENT ON FUNCTION llm_butterfly_factors(bigint) IS
    'What a seed determines. Lengths are in pixels, and those of wings, marks and antennae are multiplied by size '
    '(0.88 to 1.02). palette: monarch, morpho, brimstone, peacock, swallowtail, emerald, violet or rose; pattern: '
    'dots, band, spots, eyes, veins or tips; height of the body above the middle (-0.6 to 0.6); forewing: reach from '
    'the axis (12.6 to 14.8), lift of its tip (9 to 12), round (0 pointed to 1); hindwing: reach (10 to 12.4), drop '
    'of its end (10.5 to 13), round (0 to 1); tail (0 or 2.4 to 4); scallop, depth of the edge''s waves (0 or 0.8 to '
    '1.3); margin as a share of the wing (0.14 to 0.24); glow, how far each wing''s colour turns into the other''s '
    '(0 to 0.8); mark_place, share of the way to the edge (0.45 to 0.6); mark_size (1.6 to 2.1); spread of the '
    'antennae (3 to 5)';

CREATE FUNCTION llm_butterfly_measure(images tensor) RETURNS TABLE (image int, lenient boolean, strict boolean,
    symmetry float8, colour float8, outline float8, area float8, sharpness float8, flatness float8, nearest float8,
    nearest_seed bigint, palette text)
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000000 ROWS 16
    AS 'MODULE_PATHNAME', 'llm_butterfly_measure_sql';
COMMENT ON FUNCTION llm_butterfly_measure(tensor) IS
    'How far each of some images, (32,32,3) or (n,32,32,3), is from what the machine draws: strict if all measures are '
    'in the range of held-out butterflies, lenient if in the range of those with noise of 0.04. symmetry: distance '
    'from the mirror image; colour: distance of the foreground from mixtures of two colours of the nearest palette; '
    'outline: intersection over union with the most similar of 4,000; area: share of the foreground; sharpness: '
    'squared change over one pixel by that over two (0.25 a ramp, 0.5 an edge, 1 noise); flatness: distance of the '
    'background from its colour; nearest: distance from the most similar of the seeds 0 to 19999, 0 for a copy. '
    'Distances are root mean squares; NULL where undefined';
