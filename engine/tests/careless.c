/* A careless engine: calls every function with what does not fit, and says what did not come back as the header says.
 *
 * It also prints what the compiler makes of the header, so that the library's side can be held against it. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "warmline_engine.h"

static int failures;

#define IS(call, wanted)                                                                          \
    do {                                                                                          \
        long long got_ = (long long)(call);                                                       \
        if (got_ != (long long)(wanted)) {                                                        \
            printf("line %d: %s is %lld, not %s\n", __LINE__, #call, got_, #wanted);              \
            failures++;                                                                           \
        }                                                                                         \
    } while (0)

#define LAYOUT(type, field) printf("layout " #type "." #field " %lu\n", (unsigned long)offsetof(type, field))

/* The settings do not fit, and the reason names what. */
static void refused(const warmline_publisher_settings *settings, const char *word) {
    char error[256] = "";
    warmline_publisher *publisher = warmline_publisher_start(settings, error, sizeof error);
    IS(publisher == NULL, 1);
    if (strstr(error, word) == NULL) {
        printf("the reason does not speak of \"%s\": %s\n", word, error);
        failures++;
    }
    warmline_publisher_stop(publisher);
}

static warmline_publisher_settings fine(void) {
    warmline_publisher_settings settings = WARMLINE_PUBLISHER_SETTINGS;
    settings.endpoint = "tcp://127.0.0.1:0";
    settings.replay_endpoint = "tcp://127.0.0.1:0";
    settings.block_size = 4;
    return settings;
}

static void bad_settings(void) {
    warmline_publisher_settings settings = fine();
    struct {
        warmline_publisher_settings known;
        uint64_t later;
    } grown;
    char tiny[4] = "xyz";
    warmline_publisher *publisher;

    refused(NULL, "NULL");
    refused((const warmline_publisher_settings *)((const char *)&grown + 1), "aligned");
#define REFUSED(field, value, word) settings = fine(), settings.field = value, refused(&settings, word)
    REFUSED(struct_size, 0, "struct_size");
    REFUSED(struct_size, sizeof settings - 1, "struct_size");
    REFUSED(struct_size, (size_t)-1, "struct_size");
    REFUSED(endpoint, NULL, "endpoint must be set");
    REFUSED(endpoint, "", "endpoint must be set");
    REFUSED(endpoint, "nonsense", "nonsense");
    REFUSED(endpoint, "tcp://127.0.0.1:99999", "99999");
    REFUSED(endpoint, "tcp://*:0", "cannot listen on tcp://*:0");
    REFUSED(endpoint, "\xff\xfe", "UTF-8");
    REFUSED(replay_endpoint, NULL, "replay_endpoint must be set");
    REFUSED(replay_endpoint, "smoke://signals", "smoke");
    REFUSED(topic, "\xc3", "topic");
    REFUSED(block_size, 0, "block_size");
    REFUSED(block_size, 65537, "block_size");
    REFUSED(buffer_steps, 1048577, "buffer_steps");
    REFUSED(heartbeat_ms, 0, "heartbeat_ms");
    REFUSED(heartbeat_ms, 3600001, "heartbeat_ms");
    REFUSED(rank, -2, "rank");
    REFUSED(compact, 2, "compact");
    REFUSED(reserved, 1, "reserved");

    /* Made for a later library: fine, as long as what is new says nothing. */
    grown.known = fine();
    grown.known.struct_size = sizeof grown;
    grown.later = 1;
    refused(&grown.known, "struct_size");
    grown.later = 0;
    publisher = warmline_publisher_start(&grown.known, NULL, 0);
    IS(publisher != NULL, 1);
    settings = fine();
    settings.endpoint = warmline_publisher_endpoint(publisher);
    refused(&settings, "cannot listen");
    warmline_publisher_stop(publisher);

    /* A reason that does not fit is cut, never written past its end. */
    settings = fine();
    settings.block_size = 0;
    IS(warmline_publisher_start(&settings, tiny, 3) == NULL, 1);
    IS(memcmp(tiny, "bl\0", 4), 0);
    IS(warmline_publisher_start(&settings, tiny, 0) == NULL, 1);
    IS(warmline_publisher_start(&settings, NULL, 99) == NULL, 1);
    IS(memcmp(tiny, "bl\0", 4), 0);
}

static void bad_words(warmline_publisher *publisher) {
    uint64_t names[3] = {1, 2, 3}, name = 99;
    uint32_t token_ids[12] = {0};
    uint8_t bytes[33] = {0};
    warmline_run run = WARMLINE_RUN, other;
    const uint64_t *askew = (const uint64_t *)((const char *)names + 1);
    warmline_publisher *crooked = (warmline_publisher *)((char *)publisher + 1);
    run.blocks = names;
    run.block_count = 2;

    /* No publisher, or no run. */
    IS(warmline_publisher_stored_tokens(NULL, &run, token_ids, 8), WARMLINE_POINTER);
    IS(warmline_publisher_stored_hashes(NULL, &run, names), WARMLINE_POINTER);
    IS(warmline_publisher_removed(NULL, names, 2, WARMLINE_DEVICE), WARMLINE_POINTER);
    IS(warmline_publisher_cleared(NULL), WARMLINE_POINTER);
    IS(warmline_publisher_cleared(crooked), WARMLINE_POINTER);
    IS(warmline_publisher_endpoint(NULL) == NULL, 1);
    IS(warmline_publisher_replay_endpoint(NULL) == NULL, 1);
    IS(warmline_publisher_endpoint(crooked) == NULL, 1);
    IS(warmline_publisher_epoch(NULL), 0);
    warmline_publisher_stop(NULL);
    IS(warmline_publisher_stored_tokens(publisher, NULL, token_ids, 8), WARMLINE_POINTER);
    IS(warmline_publisher_stored_hashes(publisher, NULL, names), WARMLINE_POINTER);

    /* Arrays that are not there, not aligned, or not as long as they should be. */
    IS(warmline_publisher_stored_tokens(publisher, &run, NULL, 8), WARMLINE_POINTER);
    IS(warmline_publisher_stored_tokens(publisher, &run, (const uint32_t *)askew, 8), WARMLINE_POINTER);
    IS(warmline_publisher_stored_tokens(publisher, &run, token_ids, 7), WARMLINE_COUNT);
    IS(warmline_publisher_stored_tokens(publisher, &run, token_ids, 0), WARMLINE_COUNT);
    IS(warmline_publisher_stored_tokens(publisher, &run, token_ids, (size_t)-1), WARMLINE_COUNT);
    IS(warmline_publisher_stored_hashes(publisher, &run, NULL), WARMLINE_POINTER);
    IS(warmline_publisher_stored_hashes(publisher, &run, askew), WARMLINE_POINTER);
    IS(warmline_publisher_removed(publisher, NULL, 1, WARMLINE_DEVICE), WARMLINE_POINTER);
    IS(warmline_publisher_removed(publisher, askew, 1, WARMLINE_DEVICE), WARMLINE_POINTER);
    IS(warmline_publisher_removed(publisher, names, (size_t)-1, WARMLINE_DEVICE), WARMLINE_COUNT);
    IS(warmline_publisher_removed(publisher, names, 1048577, WARMLINE_DEVICE), WARMLINE_COUNT);
    IS(warmline_publisher_removed(publisher, names, 1, 4), WARMLINE_TIER);
    IS(warmline_publisher_removed(publisher, names, 1, -1), WARMLINE_TIER);
    IS(warmline_publisher_removed(publisher, NULL, 0, 9), WARMLINE_TIER);

    /* Runs that do not fit. */
#define REFUSES(field, value, code)                                                       \
    other = run, other.field = value;                                                     \
    IS(warmline_publisher_stored_tokens(publisher, &other, token_ids, 8), code);          \
    IS(warmline_publisher_stored_hashes(publisher, &other, names), code)
    REFUSES(struct_size, 0, WARMLINE_STRUCT);
    REFUSES(struct_size, sizeof run - 8, WARMLINE_STRUCT);
    REFUSES(struct_size, (size_t)-1, WARMLINE_STRUCT);
    REFUSES(reserved, 7, WARMLINE_STRUCT);
    REFUSES(blocks, NULL, WARMLINE_POINTER);
    REFUSES(blocks, askew, WARMLINE_POINTER);
    REFUSES(parent, askew, WARMLINE_POINTER);
    REFUSES(block_count, 1048577, WARMLINE_COUNT);
    REFUSES(block_count, (size_t)-1, WARMLINE_COUNT);
    REFUSES(tier, 4, WARMLINE_TIER);
    REFUSES(tier, -1, WARMLINE_TIER);
    REFUSES(lora, "\xff", WARMLINE_TEXT);
    REFUSES(cache_salt, "caf\xe9", WARMLINE_TEXT);

    /* Nothing is a fine thing to say nothing about. */
    other = run;
    other.block_count = 0;
    other.blocks = NULL;
    IS(warmline_publisher_stored_tokens(publisher, &other, NULL, 0), WARMLINE_OK);
    IS(warmline_publisher_stored_tokens(publisher, &other, token_ids, 4), WARMLINE_COUNT);
    IS(warmline_publisher_stored_hashes(publisher, &other, NULL), WARMLINE_OK);
    IS(warmline_publisher_removed(publisher, NULL, 0, WARMLINE_STORE), WARMLINE_OK);

    /* Names from bytes. */
    IS(warmline_block_name(bytes, 0, &name), WARMLINE_HASH);
    IS(warmline_block_name(bytes, 33, &name), WARMLINE_HASH);
    IS(warmline_block_name(NULL, 32, &name), WARMLINE_POINTER);
    IS(warmline_block_name(bytes, 32, NULL), WARMLINE_POINTER);
    IS(warmline_block_name(bytes, 32, (uint64_t *)((char *)names + 1)), WARMLINE_POINTER);
    IS(name, 99);
    bytes[0] = 7, bytes[1] = 1;
    IS(warmline_block_name(bytes, 2, &name), WARMLINE_OK);
    IS(name, 0x0701);
    IS(warmline_block_name(bytes, 9, &name), WARMLINE_OK);
    IS(name, 0x0100000000000000);
}

/* A child has the memory of a publisher and none of its threads. */
static void bad_process(warmline_publisher *publisher) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        uint64_t name = 1;
        uint32_t token_ids[4] = {0};
        warmline_run run = WARMLINE_RUN;
        run.blocks = &name;
        run.block_count = 1;
        failures = 0;
        IS(warmline_publisher_stored_tokens(publisher, &run, token_ids, 4), WARMLINE_FORKED);
        IS(warmline_publisher_stored_hashes(publisher, &run, &name), WARMLINE_FORKED);
        IS(warmline_publisher_removed(publisher, &name, 1, WARMLINE_DEVICE), WARMLINE_FORKED);
        IS(warmline_publisher_cleared(publisher), WARMLINE_FORKED);
        IS(warmline_publisher_epoch(publisher) != 0, 1);
        warmline_publisher_stop(publisher);
        fflush(stdout);
        _exit(failures != 0);
    }
    IS(waitpid(child, &status, 0) == child, 1);
    IS(status, 0);
}

int main(void) {
    warmline_publisher_settings settings = fine();
    warmline_publisher *publisher;
    int code;

    printf("layout abi %d\n", WARMLINE_ENGINE_ABI);
    printf("layout settings %lu\n", (unsigned long)sizeof(warmline_publisher_settings));
    LAYOUT(warmline_publisher_settings, endpoint);
    LAYOUT(warmline_publisher_settings, replay_endpoint);
    LAYOUT(warmline_publisher_settings, topic);
    LAYOUT(warmline_publisher_settings, block_size);
    LAYOUT(warmline_publisher_settings, buffer_steps);
    LAYOUT(warmline_publisher_settings, heartbeat_ms);
    LAYOUT(warmline_publisher_settings, rank);
    LAYOUT(warmline_publisher_settings, compact);
    LAYOUT(warmline_publisher_settings, reserved);
    printf("layout run %lu\n", (unsigned long)sizeof(warmline_run));
    LAYOUT(warmline_run, blocks);
    LAYOUT(warmline_run, block_count);
    LAYOUT(warmline_run, parent);
    LAYOUT(warmline_run, lora);
    LAYOUT(warmline_run, cache_salt);
    LAYOUT(warmline_run, tier);
    LAYOUT(warmline_run, reserved);
    for (code = WARMLINE_DEFECT; code < WARMLINE_OK; code++) {
        IS(strcmp(warmline_engine_error(code), warmline_engine_error(WARMLINE_OK)) != 0, 1);
        IS(strcmp(warmline_engine_error(code), warmline_engine_error(1)) != 0, 1);
    }
    IS(strlen(warmline_engine_error(-2147483647 - 1)) > 0, 1);
    IS(warmline_engine_abi(), WARMLINE_ENGINE_ABI);
    fflush(stdout); /* a fork would print it again */

    bad_settings();
    publisher = warmline_publisher_start(&settings, NULL, 0);
    IS(publisher != NULL, 1);
    fflush(stdout);
    if (publisher == NULL) return 1;
    bad_words(publisher);
    fflush(stdout);
    bad_process(publisher);
    IS(warmline_publisher_cleared(publisher), WARMLINE_OK);
    warmline_publisher_stop(publisher);
    printf("failures %d\n", failures);
    return failures != 0;
}
