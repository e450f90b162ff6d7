// SPDX-License-Identifier: MIT OR Apache-2.0
// VP9 in layers of quality, by libvpx: what ladder.py compares rungs with.
//
// usage: vp9_svc CLIP.y4m SPEED KEY_INTERVAL QUANTISER,..
//
// Encodes an 8-bit 4:2:0 clip in one pass and real time, in as many layers of full size as there are quantisers (0 to 63, coarsest first),
// and decodes it with one layer, with two, and so on. Prints a line for each: bytes, and luma PSNR in dB, mean of the frames' (each at most
// 78). Bytes are those of the frames of these layers, without the index of superframes. Every KEY_INTERVAL frames comes a key frame, with
// quantisers finer by KEY_FINER.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vpx/vp8cx.h>
#include <vpx/vp8dx.h>
#include <vpx/vpx_decoder.h>
#include <vpx/vpx_encoder.h>

enum { MOST_LAYERS = 5, KEY_FINER = 8 };

static _Noreturn void fail(const char *what, const char *detail) {
    fprintf(stderr, "vp9_svc: %s%s%s\n", what, detail ? ": " : "", detail ? detail : "");
    exit(1);
}

static void check(vpx_codec_ctx_t *codec, vpx_codec_err_t error, const char *what) {
    if (error != VPX_CODEC_OK) {
        const char *detail = vpx_codec_error_detail(codec);
        fail(what, detail ? detail : vpx_codec_err_to_string(error));
    }
}

static FILE *open_clip(const char *path, unsigned *width, unsigned *height, struct vpx_rational *frame) {
    char line[512], *field;
    FILE *file = fopen(path, "rb");
    if (!file || !fgets(line, sizeof line, file) || strncmp(line, "YUV4MPEG2 ", 10)) fail("not a YUV4MPEG2 file", path);
    *width = *height = 0;
    *frame = (struct vpx_rational){1, 30};
    for (field = strtok(line, " \n"); field; field = strtok(NULL, " \n")) {
        if (*field == 'W') *width = (unsigned)strtoul(field + 1, NULL, 10);
        if (*field == 'H') *height = (unsigned)strtoul(field + 1, NULL, 10);
        if (*field == 'F') sscanf(field + 1, "%d:%d", &frame->den, &frame->num);
        if (*field == 'C' && (strncmp(field, "C420", 4) || field[4] == 'p')) fail("not 8-bit 4:2:0", path);
    }
    if (!*width || !*height || *width > 16384 || *height > 16384) fail("no size, or too large", path);
    if (frame->num <= 0 || frame->den <= 0) *frame = (struct vpx_rational){1, 30};
    return file;
}

static int read_frame(FILE *file, vpx_image_t *image) {
    char line[256];
    if (!fgets(line, sizeof line, file)) return 0;
    for (int plane = 0; plane < 3; plane++) {
        size_t width = plane ? (image->d_w + 1) / 2 : image->d_w, height = plane ? (image->d_h + 1) / 2 : image->d_h;
        for (size_t y = 0; y < height; y++)
            if (fread(image->planes[plane] + y * image->stride[plane], 1, width, file) != width) fail("the clip is cut short", NULL);
    }
    return 1;
}

static double luma_psnr(const vpx_image_t *a, const vpx_image_t *b) {
    unsigned long long sum = 0;
    if (a->d_w != b->d_w || a->d_h != b->d_h) fail("a decoded frame has another size", NULL);
    for (unsigned y = 0; y < a->d_h; y++) {
        const unsigned char *p = a->planes[0] + (size_t)y * a->stride[0], *q = b->planes[0] + (size_t)y * b->stride[0];
        for (unsigned x = 0; x < a->d_w; x++) sum += (unsigned long long)((p[x] - q[x]) * (p[x] - q[x]));
    }
    return 10 * log10(65025 / fmax((double)sum / a->d_w / a->d_h, 1e-3));
}

// Adds the sizes of a superframe's frames, one for each layer, to `bytes`. Its index is at its end: a marker, sizes, the marker again.
static void add_sizes(const unsigned char *data, size_t size, int layers, size_t *bytes) {
    unsigned marker = size ? data[size - 1] : 0, width = (marker >> 3 & 3) + 1, frames = (marker & 7) + 1;
    size_t index = 2 + (size_t)width * frames;
    if (layers == 1) {
        bytes[0] += size;
        return;
    }
    if ((marker & 0xe0) != 0xc0 || (int)frames != layers || size < index || data[size - index] != marker) fail("a layer is missing", NULL);
    const unsigned char *at = data + size - index + 1;
    for (int layer = 0; layer < layers; layer++)
        for (unsigned i = 0; i < width; i++) bytes[layer] += (size_t)*at++ << 8 * i;
}

struct encoder {
    vpx_codec_ctx_t codec;
    vpx_codec_enc_cfg_t config;
    int speed, layers, quantisers[MOST_LAYERS];
};

// Sets the quantisers of the frames that follow.
static void set_quantisers(struct encoder *encoder, int key) {
    vpx_svc_extra_cfg_t extra;
    memset(&extra, 0, sizeof extra);
    for (int layer = 0; layer < encoder->layers; layer++) {
        int quantiser = encoder->quantisers[layer] - (key ? KEY_FINER : 0);
        extra.min_quantizers[layer] = extra.max_quantizers[layer] = quantiser < 0 ? 0 : quantiser;
        extra.scaling_factor_num[layer] = extra.scaling_factor_den[layer] = 1;
        extra.speed_per_layer[layer] = encoder->speed;
    }
    if (encoder->layers > 1) {
        check(&encoder->codec, vpx_codec_control(&encoder->codec, VP9E_SET_SVC_PARAMETERS, &extra), "layers");
    } else {
        encoder->config.rc_min_quantizer = encoder->config.rc_max_quantizer = (unsigned)extra.min_quantizers[0];
        check(&encoder->codec, vpx_codec_enc_config_set(&encoder->codec, &encoder->config), "quantiser");
    }
}

static void open_encoder(struct encoder *encoder, unsigned width, unsigned height, struct vpx_rational frame) {
    vpx_codec_enc_cfg_t *config = &encoder->config;
    if (vpx_codec_enc_config_default(vpx_codec_vp9_cx(), config, 0)) fail("libvpx has no VP9 encoder", NULL);
    config->g_w = width;
    config->g_h = height;
    config->g_timebase = frame;
    config->g_lag_in_frames = 0;
    config->kf_mode = VPX_KF_DISABLED; // they are asked for
    // Layers need constant bitrate. With one quantiser to choose from, bitrates decide nothing.
    config->rc_end_usage = VPX_CBR;
    config->rc_dropframe_thresh = 0;
    config->rc_target_bitrate = 1000 * (unsigned)encoder->layers;
    config->ss_number_layers = (unsigned)encoder->layers;
    config->ts_number_layers = 1;
    config->ts_rate_decimator[0] = 1;
    for (int layer = 0; layer < encoder->layers; layer++) config->ss_target_bitrate[layer] = config->layer_target_bitrate[layer] = 1000;
    // Otherwise the probabilities of lower layers follow those of upper ones, and do not decode without them.
    config->g_error_resilient = encoder->layers > 1 ? VPX_ERROR_RESILIENT_DEFAULT : 0;
    check(&encoder->codec, vpx_codec_enc_init(&encoder->codec, vpx_codec_vp9_cx(), config, 0), "the encoder does not open");
    check(&encoder->codec, vpx_codec_control(&encoder->codec, VP8E_SET_CPUUSED, encoder->speed), "speed");
    if (encoder->layers > 1) check(&encoder->codec, vpx_codec_control(&encoder->codec, VP9E_SET_SVC, 1), "layers");
}

int main(int count, char **arguments) {
    struct encoder encoder = {.speed = count > 2 ? atoi(arguments[2]) : 0};
    int layers = 0;
    if (count != 5) fail("usage: vp9_svc CLIP.y4m SPEED KEY_INTERVAL QUANTISER,..", NULL);
    for (char *word = strtok(arguments[4], ","); word; word = strtok(NULL, ",")) {
        if (layers == MOST_LAYERS) fail("too many layers", NULL);
        int q = encoder.quantisers[layers++] = atoi(word);
        if (q < 0 || q > 63 || (layers > 1 && q > encoder.quantisers[layers - 2])) fail("quantisers are 0 to 63, coarsest first", NULL);
    }
    int interval = atoi(arguments[3]);
    if (!layers || interval < 1) fail("no quantiser, or no key interval", NULL);
    encoder.layers = layers;
    unsigned width, height;
    struct vpx_rational frame;
    FILE *clip = open_clip(arguments[1], &width, &height, &frame);
    vpx_image_t source;
    if (!vpx_img_alloc(&source, VPX_IMG_FMT_I420, width, height, 16)) fail("no memory", NULL);
    vpx_codec_ctx_t decoders[MOST_LAYERS];
    open_encoder(&encoder, width, height, frame);
    for (int layer = 0; layer < layers; layer++) {
        check(&decoders[layer], vpx_codec_dec_init(&decoders[layer], vpx_codec_vp9_dx(), NULL, 0), "the decoder does not open");
        if (layers > 1) check(&decoders[layer], vpx_codec_control(&decoders[layer], VP9_DECODE_SVC_SPATIAL_LAYER, layer), "layers decoded");
    }

    size_t bytes[MOST_LAYERS] = {0};
    double quality[MOST_LAYERS] = {0};
    int frames = 0;
    for (; read_frame(clip, &source); frames++) {
        const vpx_codec_cx_pkt_t *packet;
        vpx_codec_iter_t next = NULL;
        int key = frames % interval == 0;
        if (frames % interval < 2) set_quantisers(&encoder, key);
        vpx_codec_err_t error = vpx_codec_encode(&encoder.codec, &source, frames, 1, key ? VPX_EFLAG_FORCE_KF : 0, VPX_DL_REALTIME);
        check(&encoder.codec, error, "a frame could not be encoded");
        while ((packet = vpx_codec_get_cx_data(&encoder.codec, &next))) {
            if (packet->kind != VPX_CODEC_CX_FRAME_PKT) continue;
            add_sizes(packet->data.frame.buf, packet->data.frame.sz, layers, bytes);
            for (int layer = 0; layer < layers; layer++) {
                vpx_codec_ctx_t *decoder = &decoders[layer];
                vpx_codec_iter_t first = NULL;
                check(decoder, vpx_codec_decode(decoder, packet->data.frame.buf, (unsigned)packet->data.frame.sz, NULL, 0), "a frame could not be decoded");
                const vpx_image_t *shown = vpx_codec_get_frame(decoder, &first);
                if (!shown) fail("a frame is not shown", NULL);
                quality[layer] += luma_psnr(&source, shown);
            }
        }
    }
    if (!frames) fail("the clip is empty", NULL);
    for (int layer = 0; layer < layers; layer++) {
        if (layer) bytes[layer] += bytes[layer - 1];
        printf("%zu %.4f\n", bytes[layer], quality[layer] / frames);
        vpx_codec_destroy(&decoders[layer]);
    }
    vpx_codec_destroy(&encoder.codec);
    vpx_img_free(&source);
    fclose(clip);
    return 0;
}
