// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/cluster_page.h"

#include <array>
#include <utility>

#include "base/json.h"

namespace halfmoon::app {
namespace {

constexpr const char* kPage = R"html(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>halfmoon cluster</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8885; --quiet: #888; --good: #2a9d55; --bad: #d1495b; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 1rem; }
#sums { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin-bottom: 1.5rem; }
#sums div { min-width: 6rem; } #sums b { display: block; font-size: 1.5rem; font-weight: 600; }
#sums span, small { color: var(--quiet); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line);
         white-space: nowrap; vertical-align: top; }
td.n, th.n { text-align: right; } .up { color: var(--good); } .down { color: var(--bad); }
.bar { display: inline-block; width: 8rem; height: .6rem; background: var(--line); }
.bar i { display: inline-block; height: 100%; background: #4878cf; float: left; }
.bar i + i { background: #4878cf66; }
</style></head><body>
<h1>halfmoon cluster <small id="state">connecting</small></h1>
<div id="sums"></div>
<div class="scroll"><table><thead><tr><th>node</th><th>role</th><th>state</th>
<th class="n">prefills</th><th class="n">decodes</th><th class="n">waiting</th>
<th>KV pages: used, cached</th><th class="n">KV sent</th><th class="n">KV received</th>
<th class="n">exports</th><th class="n">blocks: pages, DRAM, SSD</th><th class="n">hits</th></tr></thead><tbody id="nodes"></tbody></table></div>
<script>
const text = s => document.createTextNode(s);
const el = (name, kids = [], attrs = {}) => {
  const made = document.createElement(name);
  for (const [k, v] of Object.entries(attrs)) made.setAttribute(k, v);
  for (const kid of [].concat(kids)) made.append(kid instanceof Node ? kid : text(String(kid)));
  return made;
};
const bytes = n => { const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']; let i = 0;
  while (n >= 1024 && i < 4) { n /= 1024; ++i; } return (i ? n.toFixed(1) : n) + ' ' + units[i]; };
const tiers = of => [of.pages, of.dram, of.ssd].join(' / ');
const bar = load => { const part = n => 'width:' + (load.pages_total ? 100 * n / load.pages_total : 0) + '%';
  return el('span', [el('i', [], {style: part(load.pages_in_use)}),
                     el('i', [], {style: part(load.pages_cached)})],
            {class: 'bar', title: load.pages_in_use + ' used, ' + load.pages_cached + ' cached of ' + load.pages_total}); };
async function show() {
  try {
    const answer = await fetch('/cluster.json'); const c = await answer.json();
    document.getElementById('state').textContent = c.membership;
    document.getElementById('sums').replaceChildren(...[['requests', c.requests], ['waiting for a node', c.waiting],
      ['placed', c.placed], ['prefilled elsewhere', c.disaggregated], ['prefixes fetched', c.fetched],
      ['blocks fetched: pages / DRAM / SSD', tiers(c.fetched_blocks)],
      ['moved', c.moved], ['rejected', c.rejected], ['failed', c.failed]]
      .map(([name, n]) => el('div', [el('b', n), el('span', name)])));
    document.getElementById('nodes').replaceChildren(...c.nodes.map(n => el('tr', [
      el('td', [n.name || n.address, el('br'), el('small', n.address)]), el('td', n.role),
      el('td', n.connected ? n.health : (n.error || 'connecting'), {class: n.connected ? 'up' : 'down'}),
      el('td', n.prefills, {class: 'n'}), el('td', n.decodes, {class: 'n'}),
      el('td', n.waiting_prompt_tokens + ' tokens', {class: 'n'}), el('td', bar(n)),
      el('td', bytes(n.sent_bytes), {class: 'n'}), el('td', bytes(n.received_bytes), {class: 'n'}),
      el('td', n.exports, {class: 'n'}), el('td', tiers(n.blocks), {class: 'n'}),
      el('td', tiers(n.hits), {class: 'n'})])));
  } catch (error) { document.getElementById('state').textContent = 'conductor does not answer'; }
  setTimeout(show, 1000);
}
show();
</script></body></html>
)html";

const char* RoleName(cluster::Role role) {
  switch (role) {
    case cluster::Role::kPrefill:
      return "prefill";
    case cluster::Role::kDecode:
      return "decode";
    case cluster::Role::kBoth:
      return "both";
  }
  return "";
}

json::object TiersJson(const cluster::TierCounts& counts) {
  return {{"pages", counts.pages}, {"dram", counts.dram}, {"ssd", counts.ssd}};
}

json::object NodeJson(const cluster::NodeStatus& node) {
  const cluster::Load& load = node.load;
  return {{"address", node.address},
          {"connected", node.connected},
          {"error", node.error},
          {"name", node.description.name},
          {"http_url", node.description.http_url},
          {"model", node.description.model},
          {"version", node.description.version},
          {"role", RoleName(node.description.info.role)},
          {"health", load.health == cluster::Health::kServing ? "serving" : "draining"},
          {"prefills", node.prefills},
          {"decodes", node.decodes},
          {"running", load.running},
          {"queued", load.queued},
          {"waiting_prompt_tokens", load.report.waiting_prompt_tokens},
          {"decode_step_us", load.report.step_us},
          {"prompt_token_us", load.costs.prefill.token_us},
          {"pages_total", load.pages_total},
          {"pages_in_use", load.pages_in_use},
          {"pages_cached", load.pages_cached},
          {"sent_bytes", load.sent_bytes},
          {"received_bytes", load.received_bytes},
          {"exports", load.exports},
          {"ssd_bytes_per_s", load.costs.ssd_bytes_per_s},
          {"network_bytes_per_s", load.costs.network_bytes_per_s},
          {"blocks", TiersJson(load.blocks)},
          {"hits", TiersJson(load.hits)}};
}

std::array<std::pair<const char*, int64_t>, cluster::kNumTiers> ByTier(
    const cluster::TierCounts& counts) {
  return {{{"pages", counts.pages}, {"dram", counts.dram}, {"ssd", counts.ssd}}};
}

}  // namespace

std::string ClusterPage() { return kPage; }

std::string ClusterMetrics(const cluster::ClusterStatus& status) {
  std::string text;
  const auto add = [&text](const char* name, const char* type, const char* help) {
    text += std::string("# HELP ") + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
  };
  const auto value = [&](const char* name, const char* type, const char* help, auto number) {
    add(name, type, help);
    text += std::string(name) + " " + std::to_string(number) + "\n";
  };
  value("halfmoon_cluster_requests", "gauge", "Requests in the cluster", status.requests);
  value("halfmoon_cluster_waiting", "gauge", "Of these, waiting for a node", status.waiting);
  value("halfmoon_cluster_placed_total", "counter", "Times that a request was given to nodes",
        status.placed);
  value("halfmoon_cluster_disaggregated_total", "counter",
        "Of these, prefilled elsewhere than decoded", status.disaggregated);
  value("halfmoon_cluster_fetched_total", "counter", "Of these, with blocks that other nodes keep",
        status.fetched);
  add("halfmoon_cluster_fetched_blocks_total", "counter",
      "KV blocks that other nodes had for these, by where they lay");
  for (const auto& [tier, number] : ByTier(status.fetched_blocks)) {
    text += std::string("halfmoon_cluster_fetched_blocks_total{tier=\"") + tier + "\"} " +
            std::to_string(number) + "\n";
  }
  value("halfmoon_cluster_rejected_total", "counter", "Requests refused on arrival",
        status.rejected);
  value("halfmoon_cluster_moved_total", "counter", "Times that a request lost its node",
        status.moved);
  value("halfmoon_cluster_failed_total", "counter", "Requests that found no other node",
        status.failed);
  // Names of nodes have no character that would have to be escaped (cluster::CheckName).
  const auto name_of = [](const cluster::NodeStatus& node) {
    return node.description.name.empty() ? node.address : node.description.name;
  };
  const auto each = [&](const char* name, const char* type, const char* help, const auto& number) {
    add(name, type, help);
    for (const cluster::NodeStatus& node : status.nodes) {
      text += std::string(name) + "{node=\"" + name_of(node) + "\"} " +
              std::to_string(number(node)) + "\n";
    }
  };
  const auto each_tier = [&](const char* name, const char* type, const char* help,
                             const auto& counts) {
    add(name, type, help);
    for (const cluster::NodeStatus& node : status.nodes) {
      for (const auto& [tier, number] : ByTier(counts(node))) {
        text += std::string(name) + "{node=\"" + name_of(node) + "\",tier=\"" + tier + "\"} " +
                std::to_string(number) + "\n";
      }
    }
  };
  each("halfmoon_cluster_node_up", "gauge", "Whether the node is there",
       [](const cluster::NodeStatus& node) { return node.connected ? 1 : 0; });
  each("halfmoon_cluster_node_pages_in_use", "gauge", "KV pages held",
       [](const cluster::NodeStatus& node) { return node.load.pages_in_use; });
  each("halfmoon_cluster_node_waiting_prompt_tokens", "gauge", "Prompt tokens still to compute",
       [](const cluster::NodeStatus& node) { return node.load.report.waiting_prompt_tokens; });
  each("halfmoon_cluster_node_sent_bytes_total", "counter", "KV that others copied from it",
       [](const cluster::NodeStatus& node) { return node.load.sent_bytes; });
  each("halfmoon_cluster_node_received_bytes_total", "counter", "KV that it copied from others",
       [](const cluster::NodeStatus& node) { return node.load.received_bytes; });
  each_tier("halfmoon_cluster_node_blocks", "gauge", "KV blocks that the node has",
            [](const cluster::NodeStatus& node) { return node.load.blocks; });
  each_tier("halfmoon_cluster_node_hits_total", "counter",
            "KV blocks that were found there and used, by requests there or by other nodes",
            [](const cluster::NodeStatus& node) { return node.load.hits; });
  return text;
}

std::string ClusterJson(const cluster::ClusterStatus& status, const std::string& membership) {
  json::array nodes;
  for (const cluster::NodeStatus& node : status.nodes) nodes.push_back(NodeJson(node));
  return json::Serialize(json::object{{"membership", membership},
                                      {"requests", status.requests},
                                      {"waiting", status.waiting},
                                      {"placed", status.placed},
                                      {"rejected", status.rejected},
                                      {"disaggregated", status.disaggregated},
                                      {"fetched", status.fetched},
                                      {"fetched_blocks", TiersJson(status.fetched_blocks)},
                                      {"moved", status.moved},
                                      {"failed", status.failed},
                                      {"nodes", std::move(nodes)}});
}

}  // namespace halfmoon::app
