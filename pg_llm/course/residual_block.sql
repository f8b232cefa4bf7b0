-- One residual block of a U-Net in plain SQL: joins and sums over rows of pixels and channels, no tensor operator.
--
--     hidden = conv1(silu(norm1(image))) + time_emb_proj(silu(embedding))
--     output = skip(image) + conv2(silu(norm2(hidden)))
--
-- It computes what llm_eval does for the node of such a block, so that both can be compared, in result and in time.
-- Execute this file in a session (psql's \i, or conn.execute in Python), then read a block and compute it:
--
--     SELECT pg_temp.read_block('my-unet', 'down_blocks.0.resnets.0', image, embedding);
--     SELECT * FROM pg_temp.residual_block(groups => 32, eps => 1e-5) ORDER BY c, y, x;
--
-- image (1,C,H,W) is what the block reads, embedding (1,E) the value of node time_embedding.linear_2.

-- The image: a row for each channel and pixel, all counted from 0.
CREATE TEMP TABLE block_pixel (c int, y int, x int, value float8, PRIMARY KEY (c, y, x));
-- The time embedding: a row for each of its channels.
CREATE TEMP TABLE block_time (c int PRIMARY KEY, value float8);
-- The parameters: a row for each element. o: output channel, i: input channel, ky and kx: place in the kernel.
CREATE TEMP TABLE block_weight (name text, o int, i int, ky int, kx int, value float8);
CREATE INDEX ON block_weight (name, i);

-- Tensors become rows; nothing is computed here.
CREATE FUNCTION pg_temp.read_block(model text, block text, image tensor, embedding tensor) RETURNS void
    LANGUAGE sql AS $$
    DELETE FROM pg_temp.block_pixel;
    DELETE FROM pg_temp.block_time;
    DELETE FROM pg_temp.block_weight;
    INSERT INTO pg_temp.block_pixel SELECT t.idx[2], t.idx[3], t.idx[4], t.value FROM tensor_rows(image) AS t;
    INSERT INTO pg_temp.block_time SELECT t.idx[2], t.value FROM tensor_rows(embedding) AS t;
    INSERT INTO pg_temp.block_weight
        SELECT substr(p.name, length(block) + 2), t.idx[1], coalesce(t.idx[2], 0), coalesce(t.idx[3], 0),
            coalesce(t.idx[4], 0), t.value
        FROM llm_param AS p, tensor_rows(p.data) AS t
        WHERE p.model = read_block.model AND starts_with(p.name, block || '.');
    ANALYZE pg_temp.block_pixel, pg_temp.block_time, pg_temp.block_weight;
$$;

CREATE FUNCTION pg_temp.residual_block(groups int DEFAULT 32, eps float8 DEFAULT 1e-5)
    RETURNS TABLE (c int, y int, x int, value float8)
    LANGUAGE sql AS $$
    WITH size AS (
        SELECT max(y) AS bottom, max(x) AS right, (max(c) + 1) / groups AS per_group FROM pg_temp.block_pixel
    ),
    -- norm1: each group of channels gets mean 0 and variance 1, then each channel its own scale and shift
    group1 AS (
        SELECT p.c / s.per_group AS g, avg(p.value) AS mean, 1 / sqrt(var_pop(p.value) + eps) AS scale
        FROM pg_temp.block_pixel AS p, size AS s GROUP BY 1
    ),
    norm1 AS (
        SELECT p.c, p.y, p.x, (p.value - g.mean) * g.scale * gamma.value + beta.value AS value
        FROM pg_temp.block_pixel AS p
        JOIN group1 AS g ON g.g = p.c / (SELECT per_group FROM size)
        JOIN pg_temp.block_weight AS gamma ON gamma.name = 'norm1.weight' AND gamma.o = p.c
        JOIN pg_temp.block_weight AS beta ON beta.name = 'norm1.bias' AND beta.o = p.c
    ),
    silu1 AS MATERIALIZED (SELECT n.c, n.y, n.x, n.value / (1 + exp(-n.value)) AS value FROM norm1 AS n),
    -- conv1: each pixel times each weight of its channel, summed where the products meet; what falls beside the image
    -- is left out, which is the same as a border of zeros
    conv1 AS (
        SELECT w.o AS c, p.y + 1 - w.ky AS y, p.x + 1 - w.kx AS x, sum(p.value * w.value) AS value
        FROM size AS s, silu1 AS p JOIN pg_temp.block_weight AS w ON w.name = 'conv1.weight' AND w.i = p.c
        WHERE p.y + 1 - w.ky BETWEEN 0 AND s.bottom AND p.x + 1 - w.kx BETWEEN 0 AND s.right
        GROUP BY 1, 2, 3
    ),
    -- the time embedding: one number for each channel, the same at every pixel
    step AS (
        SELECT w.o AS c, sum(t.value / (1 + exp(-t.value)) * w.value) AS value
        FROM pg_temp.block_time AS t
        JOIN pg_temp.block_weight AS w ON w.name = 'time_emb_proj.weight' AND w.i = t.c GROUP BY 1
    ),
    hidden AS MATERIALIZED (
        SELECT p.c, p.y, p.x, p.value + bias.value + step.value + proj.value AS value
        FROM conv1 AS p JOIN step ON step.c = p.c
        JOIN pg_temp.block_weight AS bias ON bias.name = 'conv1.bias' AND bias.o = p.c
        JOIN pg_temp.block_weight AS proj ON proj.name = 'time_emb_proj.bias' AND proj.o = p.c
    ),
    size2 AS (SELECT (max(h.c) + 1) / groups AS per_group FROM hidden AS h),
    group2 AS (
        SELECT h.c / s.per_group AS g, avg(h.value) AS mean, 1 / sqrt(var_pop(h.value) + eps) AS scale
        FROM hidden AS h, size2 AS s GROUP BY 1
    ),
    norm2 AS (
        SELECT h.c, h.y, h.x, (h.value - g.mean) * g.scale * gamma.value + beta.value AS value
        FROM hidden AS h JOIN group2 AS g ON g.g = h.c / (SELECT per_group FROM size2)
        JOIN pg_temp.block_weight AS gamma ON gamma.name = 'norm2.weight' AND gamma.o = h.c
        JOIN pg_temp.block_weight AS beta ON beta.name = 'norm2.bias' AND beta.o = h.c
    ),
    silu2 AS MATERIALIZED (SELECT n.c, n.y, n.x, n.value / (1 + exp(-n.value)) AS value FROM norm2 AS n),
    conv2 AS (
        SELECT w.o AS c, p.y + 1 - w.ky AS y, p.x + 1 - w.kx AS x, sum(p.value * w.value) AS value
        FROM size AS s, silu2 AS p JOIN pg_temp.block_weight AS w ON w.name = 'conv2.weight' AND w.i = p.c
        WHERE p.y + 1 - w.ky BETWEEN 0 AND s.bottom AND p.x + 1 - w.kx BETWEEN 0 AND s.right
        GROUP BY 1, 2, 3
    ),
    -- the skip connection: the image, through a convolution of 1 x 1 where the number of channels changes
    skip AS (
        SELECT w.o AS c, p.y, p.x, sum(p.value * w.value) + min(bias.value) AS value
        FROM pg_temp.block_pixel AS p
        JOIN pg_temp.block_weight AS w ON w.name = 'conv_shortcut.weight' AND w.i = p.c
        JOIN pg_temp.block_weight AS bias ON bias.name = 'conv_shortcut.bias' AND bias.o = w.o
        GROUP BY 1, 2, 3
        UNION ALL
        SELECT p.c, p.y, p.x, p.value FROM pg_temp.block_pixel AS p
        WHERE NOT EXISTS (SELECT FROM pg_temp.block_weight AS w WHERE w.name = 'conv_shortcut.weight')
    )
    SELECT p.c, p.y, p.x, p.value + bias.value + skip.value
    FROM conv2 AS p JOIN skip ON (skip.c, skip.y, skip.x) = (p.c, p.y, p.x)
    JOIN pg_temp.block_weight AS bias ON bias.name = 'conv2.bias' AND bias.o = p.c
$$;
