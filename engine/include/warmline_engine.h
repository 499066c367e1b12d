/* Publishing what an engine's KV cache does, so that routers can know it: the C interface of Warmline's publisher.
 *
 * Start a publisher, say each change of the cache as it happens, stop it. Everything else is its own work: sequence
 * numbers, heartbeats, the ring of the last batches, and a snapshot for whoever comes late. What goes over the wire is
 * written down in docs/protocol.md.
 *
 * Threads. Any thread may call any function, at the same time, on the same publisher; no call waits for the network,
 * except warmline_publisher_start and warmline_publisher_stop. Changes are published in the order of the calls: if two
 * threads change one cache, the engine orders their calls. warmline_publisher_stop is called once, when no other call
 * on that publisher is under way and none will follow.
 *
 * Processes. A publisher has threads, and threads do not survive fork(). In a child, the functions that say something
 * return WARMLINE_FORKED and warmline_publisher_stop does nothing; start another publisher there if you need one.
 *
 * Memory. Nothing that is passed in is kept: arrays and texts may be freed or changed as soon as the call returns.
 * What is returned (endpoints, errors) belongs to the library.
 *
 * Errors. Functions that say something return WARMLINE_OK or one of the negative codes below. After an error nothing
 * of that call was said. What a pointer points to, and how long an array is, cannot be checked: a pointer that is not
 * NULL must be what it claims to be.
 *
 * Linking. libwarmline_engine.so, or libwarmline_engine.a with -lpthread -ldl -lm.
 */
#ifndef WARMLINE_ENGINE_H
#define WARMLINE_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. It grows when something that was there changes; what is only added does not count. */
#define WARMLINE_ENGINE_ABI 1

/* What the functions that say something return. */
enum warmline_code {
    WARMLINE_OK = 0,
    /* A pointer is NULL that must not be, or is not aligned for what it points to. */
    WARMLINE_POINTER = -1,
    /* Token ids are not block_size for each block, or one call has more than 1,048,576 blocks. */
    WARMLINE_COUNT = -2,
    /* The tier is none of enum warmline_tier. */
    WARMLINE_TIER = -3,
    /* A text is not UTF-8. */
    WARMLINE_TEXT = -4,
    /* struct_size is not the size of the structure, or fields that this library does not know are not zero. */
    WARMLINE_STRUCT = -5,
    /* The publisher was started by another process, of which this one is a fork. */
    WARMLINE_FORKED = -6,
    /* A block hash of no bytes, or of more than 32. */
    WARMLINE_HASH = -7,
    /* The library has a defect; it has said more on standard error. */
    WARMLINE_DEFECT = -8
};

/* Where blocks lie, nearest to the compute units first. */
enum warmline_tier {
    /* Device memory: usable at once. */
    WARMLINE_DEVICE = 0,
    /* Host memory. */
    WARMLINE_HOST = 1,
    /* A local disk. */
    WARMLINE_DISK = 2,
    /* A shared store. */
    WARMLINE_STORE = 3
};

/* A publisher that is running. */
typedef struct warmline_publisher warmline_publisher;

/* How a publisher is set up. Begin with WARMLINE_PUBLISHER_SETTINGS, then set what differs: fields that come later
 * are then right, too. */
typedef struct warmline_publisher_settings {
    /* sizeof(warmline_publisher_settings): tells the library which fields there are. */
    size_t struct_size;
    /* Where subscribers connect: "tcp://0.0.0.0:5557", or port 0 for any that is free, or "ipc:///tmp/kv". */
    const char *endpoint;
    /* Where replays and snapshots are asked for; another address of the same kinds. */
    const char *replay_endpoint;
    /* The topic of every message; NULL is the empty one. */
    const char *topic;
    /* Tokens in a block, 1 to 65,536. */
    uint32_t block_size;
    /* Batches that can be given back one by one, up to 1,048,576; whoever lacks more gets a snapshot. */
    uint32_t buffer_steps;
    /* Milliseconds between two signs of life, 1 to 3,600,000. Listeners begin to ask after 5 seconds of silence. */
    uint32_t heartbeat_ms;
    /* The data-parallel rank, or -1. */
    int32_t rank;
    /* 1: one hash a block on the wire, computed here, a third of the bytes at block size 16. 0: token ids as given. */
    uint32_t compact;
    /* 0. */
    uint32_t reserved;
} warmline_publisher_settings;

/* Every setting with its usual value; the two endpoints are still to be set. */
#define WARMLINE_PUBLISHER_SETTINGS {sizeof(warmline_publisher_settings), NULL, NULL, NULL, 16, 10000, 1000, -1, 1, 0}

/* Blocks that came in, each the child of the one before it. Begin with WARMLINE_RUN. */
typedef struct warmline_run {
    /* sizeof(warmline_run). */
    size_t struct_size;
    /* The engine's names of the blocks, in order: whatever it will remove them by. */
    const uint64_t *blocks;
    /* How many blocks. None: nothing is said. */
    size_t block_count;
    /* The name of the block before the first; NULL at the beginning of a prompt. */
    const uint64_t *parent;
    /* The LoRA adapter's name; NULL or empty if there is none. */
    const char *lora;
    /* The cache salt; NULL or empty if there is none. Blocks that follow a salted one inherit its salt. */
    const char *cache_salt;
    /* Where the blocks lie: one of enum warmline_tier. */
    int32_t tier;
    /* 0. */
    uint32_t reserved;
} warmline_run;

/* A run of no blocks on the device, at the beginning of a prompt. */
#define WARMLINE_RUN {sizeof(warmline_run), NULL, 0, NULL, NULL, NULL, WARMLINE_DEVICE, 0}

/* WARMLINE_ENGINE_ABI of the library that is loaded; an engine that finds another number than the header's refuses it. */
uint32_t warmline_engine_abi(void);

/* A code in words; never NULL. */
const char *warmline_engine_error(int code);

/* Binds both endpoints and begins a life at sequence 0. Returns once both listen.
 *
 * NULL if that failed; the reason then stands in `error` as a text of at most error_len bytes, the final zero included
 * (256 are enough for most). `error` may be NULL with error_len 0. */
warmline_publisher *warmline_publisher_start(const warmline_publisher_settings *settings, char *error,
                                             size_t error_len);

/* Blocks came in, and these are their token ids, one block after the other: block_size for each block.
 *
 * Returns at once, unless a hundred thousand words are waiting: a lost word would be a lost view. */
int warmline_publisher_stored_tokens(const warmline_publisher *publisher, const warmline_run *run,
                                     const uint32_t *token_ids, size_t token_count);

/* Blocks came in, and the engine has computed their tokens hashes itself (docs/protocol.md, section 5): one for each
 * block. */
int warmline_publisher_stored_hashes(const warmline_publisher *publisher, const warmline_run *run,
                                     const uint64_t *tokens_hashes);

/* One copy of each of these blocks went away from a tier. None: nothing is said. */
int warmline_publisher_removed(const warmline_publisher *publisher, const uint64_t *blocks, size_t block_count,
                               int32_t tier);

/* Everything went away, on every tier. */
int warmline_publisher_cleared(const warmline_publisher *publisher);

/* Where subscribers connect, with the port that was chosen. Valid until the publisher is stopped; NULL for NULL. */
const char *warmline_publisher_endpoint(const warmline_publisher *publisher);

/* Where replays are asked for, with the port that was chosen. Valid until the publisher is stopped; NULL for NULL. */
const char *warmline_publisher_replay_endpoint(const warmline_publisher *publisher);

/* Names this life of the publisher; 0 for NULL. */
uint64_t warmline_publisher_epoch(const warmline_publisher *publisher);

/* Ends a publisher, after what was said before has gone out. NULL is nothing to stop. */
void warmline_publisher_stop(warmline_publisher *publisher);

/* The name of a block for engines whose block hashes are byte strings of 1 to 32 bytes: the last eight of them,
 * big-endian, as listeners read such hashes. The bytes must be evenly spread there, as a cryptographic hash's are. */
int warmline_block_name(const uint8_t *hash, size_t length, uint64_t *name);

#ifdef __cplusplus
}
#endif

#endif
