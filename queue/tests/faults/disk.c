/* A disk that fails on command, between a process and its files: for LD_PRELOAD.
 *
 * DISK_FOLDER      the files below this folder are on the disk; all others are left alone
 * DISK_FULL_AFTER  so many bytes can be written, then there is no space left
 * DISK_SYNC_FAILS  which sync of a file fails, counted from 1
 * DISK_SHORT       every write takes at most half of what it is given
 * DISK_DENIES      files with this in their path cannot be opened
 * DISK_DAWDLES     so many milliseconds pass before such a file cannot be opened
 * DISK_TRACE       where to write down everything that happens to the disk, in order
 *
 * The trace is for a model of what a disk holds after a cut of power. A record is a letter, seven bytes of nothing, the
 * number of the file, an offset, a length, and so many bytes:
 *   R root   N a new file or folder has this number   W write   T new size (the offset)   F failed sync
 *   S sync: the offset is the number of its folder, then its name there   A the process said this
 *   D sync of a folder: its names, each as number, 1 for a folder or 0, length (one byte), name
 * What the trace cannot tell it refuses to do at all: a process that maps a file for writing is ended.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static const char *folder, *denies;
static size_t folder_length;
static long long room = -1, sync_fails = -1;
static int shortens, dawdles, trace = -1;

static void end(const char *why) {
  dprintf(2, "disk.c: %s\n", why);
  _exit(99);
}

static void put(const void *bytes, size_t length) {
  const char *at = bytes;
  while (length > 0) {
    ssize_t done = syscall(SYS_write, trace, at, length);
    if (done <= 0) end("the trace cannot be written");
    at += done;
    length -= done;
  }
}

static void tell(char what, uint64_t file, uint64_t offset, const void *bytes, uint64_t length) {
  if (trace < 0) return;
  uint64_t head[4] = {(unsigned char)what, file, offset, length};
  put(head, sizeof head);
  put(bytes, length);
}

__attribute__((constructor)) static void begin(void) {
  folder = getenv("DISK_FOLDER");
  if (!folder) return;
  folder_length = strlen(folder);
  denies = getenv("DISK_DENIES");
  shortens = getenv("DISK_SHORT") != NULL;
  if (getenv("DISK_DAWDLES")) dawdles = atoi(getenv("DISK_DAWDLES"));
  if (getenv("DISK_FULL_AFTER")) room = atoll(getenv("DISK_FULL_AFTER"));
  if (getenv("DISK_SYNC_FAILS")) sync_fails = atoll(getenv("DISK_SYNC_FAILS"));
  const char *path = getenv("DISK_TRACE");
  if (!path) return;
  trace = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  struct stat about;
  if (trace < 0 || stat(folder, &about) != 0) end("the trace or the folder cannot be opened");
  tell('R', about.st_ino, 0, NULL, 0);
}

static int below(const char *path) {
  return folder && strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || !path[folder_length]);
}

/* Whether a descriptor is a file or folder on the disk, and which. */
static int on_disk(int fd, struct stat *about, char *path) {
  if (!folder) return 0;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return below(path) && fstat(fd, about) == 0;
}

#define ENTER(fd)                                  \
  int before = errno;                              \
  struct stat about;                               \
  char path[PATH_MAX];                             \
  int ours = on_disk(fd, &about, path);            \
  errno = before;                                  \
  if (ours) pthread_mutex_lock(&one_at_a_time)
#define LEAVE(result)                              \
  do {                                             \
    int now = errno;                               \
    if (ours) pthread_mutex_unlock(&one_at_a_time);\
    errno = now;                                   \
    return result;                                 \
  } while (0)

/* How much of a write is let through; -1: none, and errno says why. */
static ssize_t let(size_t wanted) {
  if (room == 0 && wanted > 0) {
    errno = ENOSPC;
    return -1;
  }
  if (room > 0 && (long long)wanted > room) wanted = room;
  if (shortens && wanted > 1) wanted = wanted / 2;
  return wanted;
}

static void written(const struct stat *about, uint64_t offset, const void *bytes, ssize_t done) {
  if (done <= 0) return;
  if (room > 0) room -= done;
  tell('W', about->st_ino, offset, bytes, done);
}

/* Where a plain write went. */
static uint64_t behind(int fd, ssize_t done) {
  off_t at = lseek(fd, 0, SEEK_CUR);
  return at - (done > 0 ? done : 0);
}

ssize_t write(int fd, const void *bytes, size_t length) {
  if (fd == 1 && trace >= 0) {
    pthread_mutex_lock(&one_at_a_time);
    tell('A', 0, 0, bytes, length);
    pthread_mutex_unlock(&one_at_a_time);
  }
  ENTER(fd);
  if (!ours) return syscall(SYS_write, fd, bytes, length);
  ssize_t done = let(length);
  if (done > 0 || length == 0) done = syscall(SYS_write, fd, bytes, done);
  written(&about, behind(fd, done), bytes, done);
  LEAVE(done);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  ENTER(fd);
  if (!ours) return syscall(SYS_writev, fd, parts, count);
  ssize_t done = 0;
  for (int i = 0; i < count; i++) {
    if (parts[i].iov_len == 0) continue;
    done = let(parts[i].iov_len);
    if (done > 0) done = syscall(SYS_write, fd, parts[i].iov_base, done);
    written(&about, behind(fd, done), parts[i].iov_base, done);
    /* One part is a short write, which callers must live with. */
    break;
  }
  LEAVE(done);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
  ENTER(fd);
  if (!ours) return syscall(SYS_pwrite64, fd, bytes, length, offset);
  ssize_t done = let(length);
  if (done > 0 || length == 0) done = syscall(SYS_pwrite64, fd, bytes, done, offset);
  written(&about, offset, bytes, done);
  LEAVE(done);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return pwrite64(fd, bytes, length, offset); }

int ftruncate64(int fd, off64_t length) {
  ENTER(fd);
  if (!ours) return syscall(SYS_ftruncate, fd, length);
  int done = syscall(SYS_ftruncate, fd, length);
  if (done == 0) tell('T', about.st_ino, length, NULL, 0);
  LEAVE(done);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static void names(const struct stat *about, const char *path) {
  if (trace < 0) return;
  static char list[1 << 20];
  size_t length = 0;
  DIR *entries = opendir(path);
  if (!entries) end("a folder cannot be listed");
  for (struct dirent *entry; (entry = readdir(entries));) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    uint64_t number = entry->d_ino;
    size_t name = strlen(entry->d_name);
    if (length + 10 + name > sizeof list || name > 255) end("a folder is too large");
    memcpy(list + length, &number, 8);
    list[length + 8] = entry->d_type == DT_DIR;
    list[length + 9] = (char)name;
    memcpy(list + length + 10, entry->d_name, name);
    length += 10 + name;
  }
  closedir(entries);
  tell('D', about->st_ino, 0, list, length);
}

static int sync_with(int fd, long how) {
  ENTER(fd);
  if (!ours) return syscall(how, fd);
  int is_folder = S_ISDIR(about.st_mode), done;
  if (!is_folder && sync_fails > 0 && --sync_fails == 0) {
    /* As a kernel does it: the next one succeeds, although nothing was written. */
    errno = EIO;
    done = -1;
  } else {
    /* The model of a power cut needs no real sync, and tests need their time. */
    done = trace >= 0 ? 0 : syscall(how, fd);
  }
  if (is_folder && done == 0) {
    names(&about, path);
  } else if (trace >= 0) {
    struct stat parent;
    char *slash = strrchr(path, '/');
    *slash = 0;
    if (stat(path, &parent) != 0) end("a folder is not there");
    tell(done == 0 ? 'S' : 'F', about.st_ino, parent.st_ino, slash + 1, strlen(slash + 1));
  }
  LEAVE(done);
}

int fsync(int fd) { return sync_with(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_with(fd, SYS_fdatasync); }

static int open_with(int at, const char *path, int flags, mode_t mode) {
  if (denies && below(path) && strstr(path, denies)) {
    usleep(dawdles * 1000);
    errno = EACCES;
    return -1;
  }
  int watched = trace >= 0 && below(path) && flags & (O_CREAT | O_TRUNC);
  if (watched) pthread_mutex_lock(&one_at_a_time);
  int missing = watched && faccessat(at, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
  int fd = syscall(SYS_openat, at, path, flags, mode);
  struct stat about;
  if (watched && fd >= 0 && fstat(fd, &about) == 0 && (missing || flags & O_TRUNC))
    tell(missing ? 'N' : 'T', about.st_ino, 0, NULL, 0);
  int now = errno;
  if (watched) pthread_mutex_unlock(&one_at_a_time);
  errno = now;
  return fd;
}

#define MODE                                          \
  mode_t mode = 0;                                    \
  if (flags & (O_CREAT | __O_TMPFILE)) {              \
    va_list more;                                     \
    va_start(more, flags);                            \
    mode = va_arg(more, mode_t);                      \
    va_end(more);                                     \
  }

int open64(const char *path, int flags, ...) { MODE return open_with(AT_FDCWD, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE return open_with(AT_FDCWD, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE return open_with(at, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE return open_with(at, path, flags, mode); }

int mkdir(const char *path, mode_t mode) {
  if (trace < 0 || !below(path)) return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
  pthread_mutex_lock(&one_at_a_time);
  int done = syscall(SYS_mkdirat, AT_FDCWD, path, mode), now = errno;
  struct stat about;
  if (done == 0 && stat(path, &about) == 0) tell('N', about.st_ino, 0, NULL, 0);
  pthread_mutex_unlock(&one_at_a_time);
  errno = now;
  return done;
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
  struct stat about;
  char path[PATH_MAX];
  if (fd >= 0 && protection & PROT_WRITE && flags & MAP_SHARED && on_disk(fd, &about, path))
    end("a file is mapped for writing");
  return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
  return mmap64(at, length, protection, flags, fd, offset);
}

#define REFUSE(kind, name, parameters, fd)                             \
  kind name parameters {                                               \
    struct stat about;                                                 \
    char path[PATH_MAX];                                               \
    if (on_disk(fd, &about, path)) end(#name " is not in the model");  \
    errno = ENOSYS;                                                    \
    return -1;                                                         \
  }
REFUSE(ssize_t, copy_file_range, (int from, off64_t *a, int to, off64_t *b, size_t n, unsigned f), to)
REFUSE(ssize_t, sendfile64, (int to, int from, off64_t *at, size_t n), to)
REFUSE(int, fallocate64, (int fd, int mode, off64_t at, off64_t n), fd)
REFUSE(ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), fd)
