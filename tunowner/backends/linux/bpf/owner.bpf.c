/* Who made, connected and used this socket? Noted where it happens, in the process that does it.
 *
 * `make bpf` builds owner.bpf.o. It needs no header of the machine it is built on: what the kernel
 * promises (<linux/bpf.h>) is declared here, and of its inner structures just the fields that are
 * read, which libbpf finds in the running kernel by its BTF (CO-RE). Where there is no BTF the
 * loader sets `reads_tasks` to 0: the verifier drops those reads, the helpers' answers remain.
 * records.py reads the same layouts. Linux 5.9 or newer (BPF_CGROUP_INET_SOCK_RELEASE).
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;

#define SEC(name) __attribute__((section(name), used))
#define KERNEL __attribute__((preserve_access_index))
#define INLINE static inline __attribute__((always_inline))
/* Read a field of an object of the kernel; 0 when the address is bad. */
#define READ(object, field)                                                   \
    ({                                                                        \
        typeof((object)->field) value_ = 0;                                   \
        probe_read_kernel(&value_, sizeof(value_), &(object)->field);         \
        value_;                                                               \
    })

/* The same of a bit field, which has no address: BPF_FIELD_* of libbpf's bpf_core_read.h by number. */
#define READ_BITS(object, field)                                                             \
    ({                                                                                       \
        u64 bits_ = 0;                                                                       \
        probe_read_kernel(&bits_, __builtin_preserve_field_info((object)->field, 1),         \
                          (void *)(object) + __builtin_preserve_field_info((object)->field, 0)); \
        bits_ << __builtin_preserve_field_info((object)->field, 4) >>                        \
            __builtin_preserve_field_info((object)->field, 5);                               \
    })

/* Helpers by their number in <linux/bpf.h>. */
static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*ktime_get_ns)(void) = (void *)5;
static u64 (*get_current_pid_tgid)(void) = (void *)14;
static u64 (*get_current_uid_gid)(void) = (void *)15;
static long (*get_current_comm)(void *to, u32 size) = (void *)16;
static u64 (*get_current_task)(void) = (void *)35;
static u64 (*get_socket_cookie)(void *context) = (void *)46;
static long (*skb_load_bytes_relative)(const void *skb, u32 offset, void *to, u32 size,
                                       u32 start) = (void *)68;
static long (*probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static u64 (*get_netns_cookie)(void *context) = (void *)122;
static u64 (*ktime_get_boot_ns)(void) = (void *)125;
static long (*ringbuf_output)(void *ringbuf, void *data, u64 size, u64 flags) = (void *)130;

enum { AF_INET = 2, AF_INET6 = 10, IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_ICMPV6 = 58 };
enum { BPF_ANY = 0, BPF_NOEXIST = 1, LRU_HASH = 9, RINGBUF = 27 };

struct bpf_sock {
    u32 bound_dev_if, family, type, protocol, mark, priority, src_ip4, src_ip6[4], src_port;
};
struct bpf_sock_addr {
    u32 user_family, user_ip4, user_ip6[4], user_port, family, type, protocol, msg_src_ip4,
        msg_src_ip6[4];
    struct bpf_sock *sk __attribute__((aligned(8)));
};

struct __sk_buff {
    u32 len, pkt_type, mark, queue_mapping, protocol;
};

typedef struct {
    u32 val;
} kuid_t;
struct cred {
    kuid_t euid;
} KERNEL;
struct super_block {
    u32 s_dev;
} KERNEL;
struct inode {
    struct super_block *i_sb;
    unsigned long i_ino;
} KERNEL;
struct file {
    struct inode *f_inode;
} KERNEL;
struct mm_struct {
    struct file *exe_file;
} KERNEL;
struct fdtable {
    unsigned long *open_fds;
} KERNEL;
struct files_struct {
    struct fdtable *fdt;
    u32 next_fd;
} KERNEL;
struct task_struct {
    struct task_struct *group_leader;
    struct mm_struct *mm;
    struct files_struct *files;
    struct cred *cred;
    u64 start_boottime, self_exec_id;
} KERNEL;
struct in6_addr {
    u64 halves[2];
};
struct sock_common {
    u32 skc_daddr, skc_rcv_saddr;
    u16 skc_dport, skc_family;
    u8 skc_reuse : 4, skc_reuseport : 1;
    struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
} KERNEL;
struct socket {
    struct file *file;
} KERNEL;
struct sock {
    struct sock_common __sk_common;
    struct socket *sk_socket;
} KERNEL;
struct inet_sock {
    u16 inet_sport;
} KERNEL;
struct bpf_sock_addr_kern {
    struct sock *sk;
} KERNEL;

/* A program at the moment it used a socket. Boot time in ns; 0 is unknown. `start`, `exec`,
 * `device` and `inode` (of its executable) need BTF. `comm` is for people: any thread may set it. */
struct user {
    u64 time, start, inode;
    u32 device, pid, uid, exec;
    char comm[16];
};
/* One socket. `last` connected it or sent by address. Mostly that is the creator: then BY_CREATOR is
 * set and of `last` only the time, which costs no new entry. SHARES: when it was connected, its port
 * could have been another socket's as well (SO_REUSEADDR, SO_REUSEPORT). `fd` is the number that the
 * creator's table was about to give, -1 unknown: where to look first. `seal` repeats the cookie: an
 * entry of an LRU map may be given to another key while it is being copied out. */
enum { BY_CREATOR = 1, SHARES = 2 };
struct record {
    u64 cookie, netns;
    s32 fd;
    u32 flags;
    struct user creator, last;
    u64 seal;
};
/* An address is 16 bytes, IPv4 as ::ffff:a.b.c.d. Ports are in host byte order. */
struct address {
    u32 words[4];
};
struct flow {
    u64 netns;
    struct address remote;
    u16 local_port, remote_port;
    u32 protocol;
};
enum kind { SENT = 1, LEFT = 2, LEFT_BY_ANOTHER = 3, CONNECTED = 4 };
/* SENT: a datagram by address. LEFT: the socket was connected so and is closed, or connected anew,
 * BY_ANOTHER program than the one that had connected it. CONNECTED: one that had its port before was. `local` is all 0 for any address. */
struct use {
    u64 cookie;
    struct address local;
    struct user user;
    u32 kind, unused;
};
/* `before` is the latest use by another program than the one in `now`; without BTF, which tells
 * programs apart, by another socket. */
struct entry {
    struct flow flow;
    struct use now, before;
    u64 seal;
};

struct {
    int (*type)[LRU_HASH];
    int (*max_entries)[65536];
    u64 *key;
    struct record *value;
} sockets SEC(".maps");

struct {
    int (*type)[LRU_HASH];
    int (*max_entries)[32768];
    struct flow *key;
    struct entry *value;
} flows SEC(".maps");

/* When a socket last sent a packet with these ends by the device that we read; monotonic time.
 * All 0: when one left that could not be told, of no known socket or with IPv6 extensions. */
struct departure {
    struct address local, remote;
    u16 local_port, remote_port;
    u32 protocol;
    u64 cookie;
};

struct {
    int (*type)[LRU_HASH];
    int (*max_entries)[65536]; /* twice what the device holds */
    struct departure *key;
    u64 *value;
} departures SEC(".maps");

/* Cookies of sockets, told before their port is free. A full buffer loses some: the kernel's own
 * messages (SKNLGRP_*_DESTROY), which come milliseconds later, are read as well. */
struct {
    int (*type)[RINGBUF];
    int (*max_entries)[262144];
} closings SEC(".maps");

/* Whose closings are told: of this network namespace's UDP sockets, none when it is 0. */
volatile struct {
    u64 netns;
} told;

const volatile u32 reads_tasks = 1;
/* The SHA-256 of this file, by which an object that was not rebuilt is found out. */
const char source[] SEC("tunowner.source") = SOURCE_SHA256;
const char terms[] SEC("license") = "GPL"; /* required by the helpers that read tasks */

/* What tells one program from another; a thread of it is the same. */
INLINE void identify(struct user *user)
{
    user->pid = get_current_pid_tgid() >> 32;
    if (reads_tasks) {
        struct task_struct *task = (void *)get_current_task();
        struct task_struct *leader = READ(task, group_leader);
        user->start = READ(leader, start_boottime);
        user->exec = READ(task, self_exec_id);
    }
}

INLINE int same_program(const struct user *one, const struct user *other)
{
    return one->pid == other->pid && one->start == other->start && one->exec == other->exec;
}

INLINE u32 effective_user(void)
{
    if (!reads_tasks)
        return get_current_uid_gid(); /* the real one */
    struct task_struct *task = (void *)get_current_task();
    struct cred *cred = READ(task, cred);
    return READ(cred, euid.val);
}

INLINE void describe(struct user *user)
{
    user->uid = effective_user();
    get_current_comm(user->comm, sizeof(user->comm));
    if (reads_tasks) {
        struct task_struct *task = (void *)get_current_task();
        struct mm_struct *mm = READ(task, mm);
        struct file *file = READ(mm, exe_file);
        struct inode *inode = READ(file, f_inode);
        struct super_block *super = READ(inode, i_sb);
        user->inode = READ(inode, i_ino);
        user->device = READ(super, s_dev);
    }
}

/* The lowest free descriptor: the one this new socket gets (alloc_fd() in fs/file.c). */
INLINE s32 next_descriptor(void)
{
    if (!reads_tasks)
        return -1;
    struct task_struct *task = (void *)get_current_task();
    struct files_struct *files = READ(task, files);
    struct fdtable *table = READ(files, fdt);
    unsigned long *words = READ(table, open_fds), word = 0;
    u32 next = READ(files, next_fd);

    probe_read_kernel(&word, sizeof(word), words + next / 64);
#pragma unroll
    for (u32 tries = 0; tries < 8; tries++) {
        if (!(word >> next % 64 & 1))
            break;
        next++;
        if (next % 64 == 0)
            break; /* the first of the next word: free, more often than not */
    }
    return next;
}

/* Sockets that the kernel made for itself (NFS, WireGuard) have no file, and are nobody's. */
INLINE int of_kernel(struct bpf_sock_addr *context)
{
    if (!reads_tasks)
        return 0;
    struct sock *sock = READ((struct bpf_sock_addr_kern *)context, sk);
    struct socket *socket = READ(sock, sk_socket);
    return !READ(socket, file);
}

INLINE void set_v4(struct address *address, u32 v4)
{
    address->words[0] = address->words[1] = 0;
    address->words[2] = __builtin_bswap32(0xffff);
    address->words[3] = v4;
}

/* A socket that is bound to a group sends from the address that routing chooses. */
INLINE void set_local_v4(struct address *address, u32 v4)
{
    if (v4 && (v4 & 0xf0) != 0xe0)
        set_v4(address, v4);
}

INLINE void set_local_v6(struct address *address, const u32 *words)
{
    if ((words[0] & 0xff) != 0xff)
        __builtin_memcpy(address, words, sizeof(*address));
}

INLINE int same_user(const struct use *one, const struct use *other)
{
    return reads_tasks ? same_program(&one->user, &other->user) : one->cookie == other->cookie;
}

static __attribute__((noinline)) int note_use(const struct flow *flow, const struct use *use)
{
    struct entry entry = {.flow = *flow, .now = *use, .seal = use->cookie};

    for (int tries = 0; tries < 2; tries++) { /* again when another processor was first */
        const struct entry *known = map_lookup(&flows, flow);
        if (known)
            entry.before = same_user(&known->now, use) ? known->before : known->now;
        if (!map_update(&flows, flow, &entry, known ? BPF_ANY : BPF_NOEXIST))
            break;
    }
    return 0;
}

/* What is gone of a connected socket stays in `flows`: its local port was not known before. */
static __attribute__((noinline)) int note_left(struct sock *sock, u64 cookie, u64 netns, u32 protocol)
{
    struct record *record = map_lookup(&sockets, &cookie);
    struct flow flow = {.netns = netns, .protocol = protocol};
    struct use use = {.cookie = cookie};
    struct user closer = {};

    if (!record || !(record->flags & BY_CREATOR || record->last.pid))
        return 0;
    flow.remote_port = __builtin_bswap16(READ(sock, __sk_common.skc_dport));
    /* not skc_num, which a reset clears (__inet_put_port() in net/ipv4/inet_hashtables.c) */
    flow.local_port = __builtin_bswap16(READ((struct inet_sock *)sock, inet_sport));
    if (!flow.remote_port || !flow.local_port)
        return 0;
    if (READ(sock, __sk_common.skc_family) == AF_INET) {
        set_v4(&flow.remote, READ(sock, __sk_common.skc_daddr));
        set_v4(&use.local, READ(sock, __sk_common.skc_rcv_saddr));
    } else {
        probe_read_kernel(&flow.remote, 16, &sock->__sk_common.skc_v6_daddr);
        probe_read_kernel(&use.local, 16, &sock->__sk_common.skc_v6_rcv_saddr);
    }
    use.user = record->flags & BY_CREATOR ? record->creator : record->last;
    use.user.time = ktime_get_boot_ns();
    identify(&closer);
    use.kind = same_program(&closer, &use.user) ? LEFT : LEFT_BY_ANOTHER;
    return note_use(&flow, &use);
}

static __attribute__((noinline)) int note_last(u64 cookie, u64 netns, const struct user *user,
                                               u32 flags)
{
    struct record record = {.fd = -1};
    struct record *known = map_lookup(&sockets, &cookie);

    if (known)
        record = *known;
    record.cookie = record.seal = cookie;
    record.netns = netns;
    record.flags = flags;
    record.last = *user;
    map_update(&sockets, &cookie, &record, BPF_ANY);
    return 0;
}

/* Note the program that runs now as the last user of the socket. */
INLINE void used(struct bpf_sock_addr *context, struct user *user, u64 cookie, u32 flags)
{
    struct record *known = map_lookup(&sockets, &cookie);

    if (known && !(known->flags & BY_CREATOR) && same_program(&known->last, user)) {
        known->last.time = user->time;
        known->flags |= flags;
        return;
    }
    if (known && (known->flags & BY_CREATOR || !known->last.pid) &&
        same_program(&known->creator, user) && known->creator.uid == effective_user()) {
        known->last.time = user->time;
        known->flags |= BY_CREATOR | flags;
        return;
    }
    if (of_kernel(context))
        return;
    describe(user);
    note_last(cookie, get_netns_cookie(context), user, flags);
}

/* Note a socket that had its port before. Of its own, as `connects` has no room left on its stack. */
INLINE int note_connected(struct bpf_sock_addr *context, struct flow *flow, struct use *use)
{
    if (!flow->local_port || of_kernel(context))
        return 0;
    flow->netns = get_netns_cookie(context);
    flow->protocol = IPPROTO_UDP;
    flow->remote_port = __builtin_bswap16(context->user_port);
    use->cookie = get_socket_cookie(context);
    use->kind = CONNECTED;
    use->user.time = ktime_get_boot_ns();
    identify(&use->user);
    describe(&use->user);
    note_use(flow, use);
    return 0;
}

INLINE u32 shares(struct bpf_sock_addr *context)
{
    if (!reads_tasks)
        return SHARES;
    struct sock *sock = READ((struct bpf_sock_addr_kern *)context, sk);
    if (READ_BITS(sock, __sk_common.skc_reuse) || READ_BITS(sock, __sk_common.skc_reuseport))
        return SHARES;
    return 0;
}

INLINE int sends(struct bpf_sock_addr *context, struct flow *flow, struct use *use)
{
    flow->netns = get_netns_cookie(context);
    flow->protocol = context->protocol;
    flow->remote_port = __builtin_bswap16(context->user_port);
    use->cookie = get_socket_cookie(context);
    use->kind = SENT;
    use->user.time = ktime_get_boot_ns();
    identify(&use->user);
    used(context, &use->user, use->cookie, 0);

    struct entry *known = map_lookup(&flows, flow);
    if (known && known->now.cookie == use->cookie && known->now.kind == SENT &&
        same_program(&known->now.user, &use->user)) {
        known->now.user.time = use->user.time; /* the same again: most datagrams by far */
        return 1;
    }
    if (of_kernel(context))
        return 1;
    describe(&use->user);
    note_use(flow, use);
    return 1;
}

SEC("cgroup/sock_create") int created(struct bpf_sock *context)
{
    struct record record = {};

    record.cookie = record.seal = get_socket_cookie(context);
    record.netns = get_netns_cookie(context);
    record.fd = next_descriptor();
    record.creator.time = ktime_get_boot_ns();
    identify(&record.creator);
    describe(&record.creator);
    map_update(&sockets, &record.cookie, &record, BPF_ANY);
    return 1;
}

INLINE int fill_v4(struct bpf_sock_addr *context, struct flow *flow, struct use *use)
{
    struct bpf_sock *sock = context->sk;

    if (!sock)
        return 0;
    flow->local_port = sock->src_port;
    set_v4(&flow->remote, context->user_ip4);
    set_local_v4(&use->local, sock->src_ip4);
    return 1;
}

INLINE int fill_v6(struct bpf_sock_addr *context, struct flow *flow, struct use *use)
{
    struct bpf_sock *sock = context->sk;

    if (!sock)
        return 0;
    flow->local_port = sock->src_port;
    for (int i = 0; i < 4; i++)
        flow->remote.words[i] = context->user_ip6[i];
    u32 local[4] = {sock->src_ip6[0], sock->src_ip6[1], sock->src_ip6[2], sock->src_ip6[3]};
    set_local_v6(&use->local, local);
    return 1;
}

static __attribute__((noinline)) int note_connected4(struct bpf_sock_addr *context)
{
    struct flow flow = {};
    struct use use = {};

    return fill_v4(context, &flow, &use) ? note_connected(context, &flow, &use) : 0;
}

static __attribute__((noinline)) int note_connected6(struct bpf_sock_addr *context)
{
    struct flow flow = {};
    struct use use = {};

    return fill_v6(context, &flow, &use) ? note_connected(context, &flow, &use) : 0;
}

INLINE int connects(struct bpf_sock_addr *context, int v6)
{
    u64 cookie = get_socket_cookie(context);
    struct user user = {.time = ktime_get_boot_ns()};
    u32 flags = 0;

    if (context->protocol == IPPROTO_UDP) {
        if (reads_tasks)
            note_left(READ((struct bpf_sock_addr_kern *)context, sk), cookie,
                      get_netns_cookie(context), IPPROTO_UDP);
        v6 ? note_connected6(context) : note_connected4(context);
        flags = shares(context);
    }
    identify(&user);
    used(context, &user, cookie, flags);
    return 1;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *context)
{
    return connects(context, 0);
}

SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *context)
{
    return connects(context, 1);
}

SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *context)
{
    struct flow flow = {};
    struct use use = {};

    return fill_v4(context, &flow, &use) ? sends(context, &flow, &use) : 1;
}

SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *context)
{
    struct flow flow = {};
    struct use use = {};

    return fill_v6(context, &flow, &use) ? sends(context, &flow, &use) : 1;
}

SEC("cgroup/sock_release") int released(struct bpf_sock *context)
{
    u32 protocol = context->protocol;
    u64 cookie = get_socket_cookie(context);

    if (protocol == IPPROTO_UDP && told.netns && told.netns == get_netns_cookie(context))
        ringbuf_output(&closings, &cookie, sizeof(cookie), 0);
    if (reads_tasks && (protocol == IPPROTO_UDP || protocol == IPPROTO_TCP))
        note_left((struct sock *)context, cookie, get_netns_cookie(context), protocol);
    return 1;
}

enum { FROM_NETWORK_HEADER = 1, GO_ON = -1 }; /* BPF_HDR_START_NET, TC_ACT_UNSPEC */
enum { IGNORED = 0, TOLD = 1, UNTOLD = 2 };

INLINE int read_ports(struct __sk_buff *skb, u32 offset, struct departure *key)
{
    u16 ports[2];

    if (skb_load_bytes_relative(skb, offset, ports, sizeof(ports), FROM_NETWORK_HEADER))
        return UNTOLD;
    key->local_port = __builtin_bswap16(ports[0]);
    key->remote_port = __builtin_bswap16(ports[1]);
    return TOLD;
}

INLINE int read_v4(struct __sk_buff *skb, struct departure *key)
{
    struct {
        u8 size, tos;
        u16 length, id, fragment;
        u8 ttl, protocol;
        u16 sum;
        u32 local, remote;
    } ip;

    if (skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), FROM_NETWORK_HEADER))
        return UNTOLD;
    key->protocol = ip.protocol;
    if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP)
        return IGNORED;
    if (ip.fragment & __builtin_bswap16(0x1fff))
        return IGNORED; /* its first fragment was just told of */
    set_v4(&key->local, ip.local);
    set_v4(&key->remote, ip.remote);
    return read_ports(skb, (ip.size & 15) * 4, key);
}

INLINE int read_v6(struct __sk_buff *skb, struct departure *key)
{
    struct {
        u32 flow;
        u16 length;
        u8 next, hops;
        struct address local, remote;
    } ip;

    if (skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), FROM_NETWORK_HEADER))
        return UNTOLD;
    key->protocol = ip.next;
    if (ip.next == IPPROTO_ICMPV6)
        return IGNORED;
    if (ip.next != IPPROTO_TCP && ip.next != IPPROTO_UDP)
        return UNTOLD;
    key->local = ip.local;
    key->remote = ip.remote;
    return read_ports(skb, sizeof(ip), key);
}

SEC("tc") int leaves(struct __sk_buff *skb)
{
    struct departure key = {.cookie = get_socket_cookie(skb)};
    u64 now = ktime_get_ns();
    int told = IGNORED;

    if (skb->protocol == __builtin_bswap16(0x0800))
        told = read_v4(skb, &key);
    else if (skb->protocol == __builtin_bswap16(0x86dd))
        told = read_v6(skb, &key);
    if (told == IGNORED)
        return GO_ON;
    if (told == UNTOLD || !key.cookie)
        __builtin_memset(&key, 0, sizeof(key));
    u64 *known = map_lookup(&departures, &key);
    if (known)
        *known = now;
    else
        map_update(&departures, &key, &now, BPF_ANY);
    return GO_ON;
}
