// What browser.py asks of ComfyUI's page; added to it before the page's own scripts.
window.canvasProbe = {
  ready() {
    const app = window.app;
    return Boolean(app?.graph && app.canvas && app.extensionManager && window.LiteGraph && window.comfyAPI?.api);
  },

  hideMenus() {
    window.app.extensionManager.focusMode = true;
    const style = document.createElement("style");
    style.textContent = '[aria-label="Show Menu"] { display: none !important; }';
    document.head.append(style);
  },

  async load(workflow) {
    await window.app.loadGraphData(workflow, true, false);
  },

  // Queues as the Run button does; the prompt's id, or null where the server refused it.
  async queue() {
    const api = window.comfyAPI.api.api, own = api.queuePrompt;
    let answer = null;
    api.queuePrompt = async (...given) => (answer = await own.apply(api, given));
    try {
      await window.app.queuePrompt(0, 1);
    } finally {
      api.queuePrompt = own;
    }
    return answer?.prompt_id ?? null;
  },

  // The classic canvas keeps a node's pictures in node.imgs once the node was drawn; Vue nodes do not.
  picturesShown() {
    return window.LiteGraph.vueNodesMode || window.app.graph.nodes.every((node) => {
      const shown = window.app.nodeOutputs[node.id]?.images?.length ?? 0;
      return (node.imgs?.length ?? 0) >= shown && (node.imgs ?? []).every((picture) => picture.complete);
    });
  },

  redNodes() {
    const app = window.app, found = new Set(Object.keys(app.lastNodeErrors ?? {}));
    if (app.lastExecutionError) found.add(String(app.lastExecutionError.node_id));
    for (const node of app.graph.nodes) {
      const known = node.type in window.LiteGraph.registered_node_types;
      if (node.has_errors || !known) found.add(String(node.id));
    }
    return [...found];
  },

  async toApi() {
    return (await window.app.graphToPrompt()).output;
  },

  // Shows all nodes and groups, at most `largest` times their size; the scale.
  fit(margin, largest) {
    const { graph, canvas } = window.app, title = window.LiteGraph.NODE_TITLE_HEIGHT;
    const boxes = [
      ...graph.nodes.map((node) => [node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title]),
      ...graph.groups.map((group) => [...group.pos, ...group.size]),
    ];
    if (!boxes.length) return canvas.ds.scale;
    const left = Math.min(...boxes.map((box) => box[0])), top = Math.min(...boxes.map((box) => box[1]));
    const width = Math.max(...boxes.map((box) => box[0] + box[2])) - left;
    const height = Math.max(...boxes.map((box) => box[1] + box[3])) - top;
    const view = canvas.canvas.getBoundingClientRect();
    const fits = Math.min((view.width - 2 * margin) / width, (view.height - 2 * margin) / height);
    const scale = Math.min(fits, largest);
    canvas.ds.scale = scale;
    canvas.ds.offset[0] = (view.width / scale - width) / 2 - left;
    canvas.ds.offset[1] = (view.height / scale - height) / 2 - top;
    canvas.setDirty(true, true);
    return scale;
  },
};
