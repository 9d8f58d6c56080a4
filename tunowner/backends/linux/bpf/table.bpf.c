/* Who holds which socket? Told for all processes at once, by two iterators that are read like files
 * (bpf_iter_create(3) of libbpf; kernel Documentation/bpf/bpf_iterators.rst). Nothing is attached.
 *
 * `make bpf` makes table.bpf.load, which has the kernel itself find the fields that are read here in
 * its BTF (CO-RE): libbpf would read all of that, for 10 ms. holdings.py reads the same layouts.
 * Linux 5.17 or newer, with BTF.
 */
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define KERNEL __attribute__((preserve_access_index))
#define POINTER __attribute__((aligned(8)))
/* Read a field of an object of the kernel; 0 when the address is bad. Reading it as C does would
 * have the verifier look each structure up among all types of the kernel, which takes longer. */
#define READ(object, field)                                                   \
    ({                                                                        \
        typeof((object)->field) value_ = 0;                                   \
        probe_read_kernel(&value_, sizeof(value_), &(object)->field);         \
        value_;                                                               \
    })

/* Helpers by their number in <linux/bpf.h>. */
static long (*probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*seq_write)(void *file, const void *data, u32 size) = (void *)127;
static void *(*sock_from_file)(void *file) = (void *)162;

struct task_struct {
    struct task_struct *group_leader;
    void *mm;
    u64 start_boottime, self_exec_id;
    int tgid;
} KERNEL;
struct inode {
    unsigned long i_ino;
} KERNEL;
struct file {
    struct inode *f_inode;
} KERNEL;
struct bpf_iter_meta {
    void *seq POINTER;
};
struct bpf_iter__task_file {
    struct bpf_iter_meta *meta POINTER;
    struct task_struct *task POINTER;
    u32 fd POINTER;
    struct file *file POINTER;
};
struct bpf_iter__task {
    struct bpf_iter_meta *meta POINTER;
    struct task_struct *task POINTER;
};

/* A descriptor of a socket of any family, by the number of its inode: an MPTCP socket has that of its flows, not
 * their cookies. `pid` is that of the initial namespace. IN_THREAD is set in `fd` when the table is
 * not that of the process's first thread (unshare(CLONE_FILES)). */
struct holding {
    u32 inode, pid, fd;
};
enum { IN_THREAD = 1u << 31 };
/* Which program a process runs: execve(2) changes `space`, then closes descriptors, then `exec`. */
struct program {
    u64 start, space;
    u32 pid, exec;
};

const char terms[] SEC("license") = "GPL"; /* required by the helpers that read sockets */

/* The kernel shows each table once, but for threads whose first thread has exited: then each. */
SEC("iter/task_file") int holdings(struct bpf_iter__task_file *context)
{
    struct task_struct *task = context->task;
    struct file *file = context->file;
    struct holding holding = {.fd = context->fd};

    if (!task || !file)
        return 0;
    if (!sock_from_file(file))
        return 0;
    struct inode *inode = READ(file, f_inode);
    holding.inode = READ(inode, i_ino);
    holding.pid = READ(task, tgid);
    if (task != READ(task, group_leader))
        holding.fd |= IN_THREAD;
    seq_write(context->meta->seq, &holding, sizeof(holding));
    return 0;
}

SEC("iter/task") int programs(struct bpf_iter__task *context)
{
    struct task_struct *task = context->task;

    if (!task || task != READ(task, group_leader))
        return 0;
    struct program program = {
        .start = READ(task, start_boottime),
        .space = (u64)READ(task, mm),
        .pid = READ(task, tgid),
        .exec = READ(task, self_exec_id),
    };
    seq_write(context->meta->seq, &program, sizeof(program));
    return 0;
}
