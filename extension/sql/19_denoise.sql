-- Denoising: images out of noise by a model that predicts the noise (Ho et al., 2020). Each step is a row.

CREATE FUNCTION _llm_cosine(x float8) RETURNS float8
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    term float8 := 1;
    total float8 := 1;
BEGIN
    FOR i IN 1..14 LOOP
        term := -term * x * x / ((2 * i - 1) * (2 * i));
        total := total + term;
    END LOOP;
    RETURN total;
END $$;
COMMENT ON FUNCTION _llm_cosine(float8) IS
    'cos(x) for |x| up to 2, by its series: the last bits of the C library''s cos differ between machines';

CREATE FUNCTION llm_noise_schedule(kind text DEFAULT 'linear', steps int DEFAULT 1000, beta_start float8 DEFAULT 1e-4,
    beta_end float8 DEFAULT 0.02, OUT step int, OUT beta float8, OUT alpha float8, OUT alpha_cumprod float8)
    RETURNS SETOF record
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    half_pi CONSTANT float8 := 1.5707963267948966;
    now float8;
    later float8;
BEGIN
    IF kind IS NULL OR kind NOT IN ('linear', 'scaled_linear', 'squared_cosine') THEN
        RAISE EXCEPTION 'the noise schedule "%" is not known', coalesce(left(kind, 100), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Known are linear, scaled_linear (linear in the square root) and squared_cosine.';
    ELSIF steps IS NULL OR steps NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'steps is %; it must be from 1 to 100000', steps USING ERRCODE = 'invalid_parameter_value';
    ELSIF (beta_start BETWEEN 0 AND 1 AND beta_end BETWEEN 0 AND 1) IS NOT TRUE THEN
        RAISE EXCEPTION 'beta_start is %, beta_end is %; both must be from 0 to 1', beta_start, beta_end
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    alpha_cumprod := 1;
    FOR i IN 0..steps - 1 LOOP
        step := i;
        IF kind = 'squared_cosine' THEN
            now := @extschema@._llm_cosine((i::float8 / steps + 0.008) / 1.008 * half_pi);
            later := @extschema@._llm_cosine(((i + 1)::float8 / steps + 0.008) / 1.008 * half_pi);
            beta := least(1 - later * later / (now * now), 0.999);
        ELSIF kind = 'linear' THEN
            beta := beta_start + (beta_end - beta_start) * i / greatest(steps - 1, 1);
        ELSE
            beta := sqrt(beta_start) + (sqrt(beta_end) - sqrt(beta_start)) * i / greatest(steps - 1, 1);
            beta := beta * beta;
        END IF;
        alpha := 1 - beta;
        alpha_cumprod := alpha_cumprod * alpha;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION llm_noise_schedule(text, int, float8, float8) IS
    'How much noise each step adds: after it, x = sqrt(alpha_cumprod) image + sqrt(1 - alpha_cumprod) noise; '
    'kind is linear, scaled_linear or squared_cosine (Nichol and Dhariwal, 2021), which needs no betas';

CREATE FUNCTION _llm_noise_of(model text, OUT kind text, OUT steps int, OUT beta_start float8, OUT beta_end float8,
    OUT prediction text, OUT clip float8, OUT shape int[])
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    noise jsonb;
BEGIN
    SELECT c.options -> 'noise' INTO noise FROM @extschema@.llm_model_config AS c WHERE c.model = model;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no model "%"', coalesce(left(model, 100), 'NULL') USING ERRCODE = 'undefined_object',
            HINT = 'SELECT model FROM llm_model_config lists the models.';
    END IF;
    SELECT g.shape[2:]::int[] INTO shape FROM @extschema@.llm_graph AS g
    WHERE g.model = model AND g.name = 'sample' AND g.op = 'input' AND cardinality(g.shape) = 4
        AND array_to_string(g.shape[2:], '') ~ '^[0-9]+$';
    IF shape IS NULL THEN
        RAISE EXCEPTION 'the model "%" has no input "sample" of images', left(model, 100)
            USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'A denoising model has inputs sample (B,C,H,W) and timestep (B), and a node "output".';
    END IF;
    kind := coalesce(noise ->> 'kind', 'linear');
    steps := coalesce((noise ->> 'steps')::int, 1000);
    beta_start := coalesce((noise ->> 'beta_start')::float8, 1e-4);
    beta_end := coalesce((noise ->> 'beta_end')::float8, 0.02);
    prediction := coalesce(noise ->> 'prediction', 'epsilon');
    clip := CASE WHEN noise ? 'clip' THEN (noise ->> 'clip')::float8 ELSE 1 END;
END $$;
COMMENT ON FUNCTION _llm_noise_of(text) IS
    'How a denoising model was trained, from its option "noise": schedule, prediction (epsilon or v_prediction), the '
    'range to which predicted images are clipped (NULL: not at all); and the shape (C,H,W) of its images';

CREATE FUNCTION llm_denoise_plan(model text, steps int DEFAULT 50, sampler text DEFAULT 'ddpm', eta float8 DEFAULT 0,
    OUT step int, OUT t int, OUT image_x float8, OUT image_output float8, OUT noise_x float8, OUT noise_output float8,
    OUT clip float8, OUT next_image float8, OUT next_x float8, OUT next_noise float8, OUT random float8)
    RETURNS SETOF record
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    how record;
    cumprods float8[];
    now float8;
    before float8;
    kept float8;
BEGIN
    SELECT * INTO how FROM @extschema@._llm_noise_of(model);
    IF steps IS NULL OR steps NOT BETWEEN 1 AND how.steps THEN
        RAISE EXCEPTION 'steps is %; the model was trained with %', steps, how.steps
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Choose a number of steps from 1 to that.';
    ELSIF sampler IS NULL OR sampler NOT IN ('ddpm', 'ddim') THEN
        RAISE EXCEPTION 'the sampler "%" is not known', coalesce(left(sampler, 100), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'ddpm adds noise at each step; ddim adds eta times as much, none by default.';
    ELSIF (eta BETWEEN 0 AND 1) IS NOT TRUE THEN
        RAISE EXCEPTION 'eta is %; it must be from 0 to 1', eta USING ERRCODE = 'invalid_parameter_value';
    ELSIF how.prediction NOT IN ('epsilon', 'v_prediction') THEN
        RAISE EXCEPTION 'the model predicts "%"; epsilon and v_prediction are known', how.prediction
            USING ERRCODE = 'feature_not_supported';
    END IF;
    SELECT array_agg(s.alpha_cumprod ORDER BY s.step) INTO cumprods
    FROM @extschema@.llm_noise_schedule(how.kind, how.steps, how.beta_start, how.beta_end) AS s;
    clip := how.clip;
    FOR i IN 1..steps LOOP
        step := i;
        t := (steps - i) * (how.steps / steps);
        now := cumprods[t + 1];
        before := coalesce(cumprods[t + 1 - how.steps / steps], 1);
        IF how.prediction = 'epsilon' THEN
            image_x := 1 / sqrt(now);
            image_output := -sqrt(1 - now) / sqrt(now);
            noise_x := 0;
            noise_output := 1;
        ELSE
            image_x := sqrt(now);
            image_output := -sqrt(1 - now);
            noise_x := sqrt(1 - now);
            noise_output := sqrt(now);
        END IF;
        kept := now / before;
        random := sqrt(greatest((1 - before) / (1 - now) * (1 - kept), 0));
        IF sampler = 'ddpm' THEN
            next_image := sqrt(before) * (1 - kept) / (1 - now);
            next_x := sqrt(kept) * (1 - before) / (1 - now);
            next_noise := 0;
        ELSE
            random := eta * random;
            next_image := sqrt(before);
            next_x := 0;
            next_noise := sqrt(greatest(1 - before - random * random, 0));
        END IF;
        IF t = 0 THEN
            random := 0;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION llm_denoise_plan(text, int, text, float8) IS
    'The factors of each step of llm_denoise, from the model''s option "noise". With x the noisy image and output the '
    'model''s: image = image_x x + image_output output, clipped; noise = noise_x x + noise_output output; the next x '
    'is next_image image + next_x x + next_noise noise + random times normal random numbers';

CREATE FUNCTION llm_noise(seed bigint, step int, shape int[]) RETURNS tensor
    LANGUAGE sql STABLE PARALLEL SAFE RETURN randn(shape, seed # (step::bigint << 32));
COMMENT ON FUNCTION llm_noise(bigint, int, int[]) IS
    'The normal random numbers that llm_denoise adds at a step; step 0 is the noise that it begins with';

CREATE FUNCTION _llm_denoise_next(x tensor, output tensor, noise tensor, image_x float8, image_output float8,
    noise_x float8, noise_output float8, clip float8, next_image float8, next_x float8, next_noise float8,
    random float8) RETURNS tensor
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH guessed AS MATERIALIZED (
        SELECT (x * image_x) + (output * image_output) AS image, (x * noise_x) + (output * noise_output) AS noise
    ), kept AS MATERIALIZED (
        SELECT CASE WHEN clip IS NULL THEN g.image ELSE maximum(minimum(g.image, clip::real), -clip::real) END AS image
        FROM guessed AS g
    ), mean AS MATERIALIZED (
        SELECT (k.image * next_image) + (x * next_x) + (g.noise * next_noise) AS x FROM kept AS k, guessed AS g
    )
    SELECT CASE WHEN _llm_denoise_next.noise IS NULL THEN m.x ELSE m.x + (_llm_denoise_next.noise * random) END
    FROM mean AS m;
END;
COMMENT ON FUNCTION _llm_denoise_next(tensor, tensor, tensor, float8, float8, float8, float8, float8, float8, float8,
    float8, float8) IS 'The next noisy image from this one and the model''s output, by the factors of llm_denoise_plan';

-- Inlined where it is called in FROM, so that each row leaves as soon as it is computed: hence neither STRICT nor SET.
CREATE FUNCTION llm_denoise(model text, seed bigint DEFAULT 0, steps int DEFAULT 50, sampler text DEFAULT 'ddpm',
    eta float8 DEFAULT 0, n int DEFAULT 1) RETURNS TABLE (step int, t int, image tensor)
    LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 50
BEGIN ATOMIC
    WITH RECURSIVE plan AS MATERIALIZED (
        SELECT p.*, n || (_llm_noise_of(model)).shape AS shape FROM llm_denoise_plan(model, steps, sampler, eta) AS p
    ), process (step, t, x) AS (
        SELECT 0, NULL::int, llm_noise(coalesce(seed, 0), 0, p.shape) FROM plan AS p WHERE p.step = 1
        UNION ALL
        SELECT p.step, p.t, _llm_denoise_next(process.x,
            llm_eval(model, 'output', '{}', ARRAY['sample', 'timestep'],
                ARRAY[process.x, ones(ARRAY[n]) * p.t::float8]),
            CASE WHEN p.random <> 0 THEN llm_noise(coalesce(seed, 0), p.step, p.shape) END,
            p.image_x, p.image_output, p.noise_x,
            p.noise_output, p.clip, p.next_image, p.next_x, p.next_noise, p.random)
        FROM process JOIN plan AS p ON p.step = process.step + 1
    )
    SELECT process.step, process.t, process.x FROM process;
END;
COMMENT ON FUNCTION llm_denoise(text, bigint, int, text, float8, int) IS
    'n images (n,C,H,W) out of noise in `steps` steps, each a row that leaves as it is made: step 0 is the noise, t '
    'the time step given to the model; sampler ddpm (Ho et al., 2020) or ddim (Song et al., 2021) with eta; the seed '
    'replays it';
