// Clusters: blocks that are resident together, with a barrier of their own and sight of each other's shared memory.
#include "core/check.h"
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

void complete(Cluster& c) {
    if (!c.arrived || c.arrived < c.live) return;
    c.arrived = 0;
    c.phase++;
    c.heard = c.offered;
    for (Block* b : c.blocks)
        for (Thread* t : b->threads)
            if (!t->done && t->wait == Wait::cluster) t->wait = Wait::none, wake(*t);
}

}

unsigned cluster_rank() { return current->block->rank; }
unsigned cluster_size() { return unsigned(current->block->cluster->blocks.size()); }

void cluster_arrive(Site site) {
    Thread& t = *current;
    Cluster& c = *t.block->cluster;
    if (t.at_cluster_barrier) return report("CLUSTER", name_of(site), concat(name_of(t), " arrives twice at the cluster's barrier, at ", name_of(site)));
    t.at_cluster_barrier = true;
    t.cluster_phase = c.phase;
    if (checking()) offer_clocks(c.offered);
    c.arrived++;
    complete(c);
}
void cluster_wait(Site site) {
    Thread& t = *current;
    Cluster& c = *t.block->cluster;
    if (!t.at_cluster_barrier) return report("CLUSTER", name_of(site), concat(name_of(t), " waits at the cluster's barrier without having arrived, at ", name_of(site)));
    while (c.phase == t.cluster_phase) wait_for(Wait::cluster, site);
    t.at_cluster_barrier = false;
    if (checking()) hear_clocks(c.heard);
}
void leave_cluster(Thread& t) {
    Cluster& c = *t.block->cluster;
    c.live--;
    if (t.at_cluster_barrier && t.cluster_phase == c.phase) c.arrived--;
    complete(c);
}

void* cluster_map(const void* shared, unsigned rank, Site site) {
    const Local at = local_of(shared);
    const auto& blocks = current->block->cluster->blocks;
    if (at.block != current->block) report("CLUSTER", name_of(site), concat(name_of(*current), " maps ", describe(uintptr_t(shared)), ", which is not its own shared memory, at ", name_of(site)));
    else if (rank >= blocks.size()) report("CLUSTER", name_of(site), concat(name_of(*current), " maps shared memory of block ", rank, " of a cluster of ", blocks.size(), ", at ", name_of(site)));
    else return from_here(counterpart(at, *blocks[rank]));
    abandon();
    return nullptr;
}

}
