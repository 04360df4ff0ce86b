/* Shared by the pages of runs. Names and messages come from registries: they are only ever set as text. */
'use strict';
const fleetPages = (() => {
  const POLL_MS = 2000;
  const BEHIND_MS = 300;
  const LONGEST_PAUSE_MS = 15000;
  const STATES = ['succeeded', 'skipped', 'failed', 'cancelled'];

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined && text !== null) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function number(value) { return Number(value || 0).toLocaleString('en'); }

  function bytes(value) {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
    let amount = Number(value || 0), unit = 0;
    while (amount >= 1024 && unit < units.length - 1) { amount /= 1024; unit += 1; }
    return `${unit ? amount.toFixed(1) : amount} ${units[unit]}`;
  }

  function duration(seconds) {
    if (seconds === null || seconds === undefined) return '—';
    if (seconds < 10) return `${Number(seconds).toFixed(1)} s`;
    if (seconds < 60) return `${Math.round(seconds)} s`;
    const minutes = Math.floor(seconds / 60);
    if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
  }

  function time(seconds) { return new Date(seconds * 1000).toLocaleTimeString('en-GB'); }

  function moment(seconds) {
    const date = new Date(seconds * 1000), today = new Date();
    const day = date.toDateString() === today.toDateString() ? '' : `${date.toISOString().slice(0, 10)} `;
    return day + date.toLocaleTimeString('en-GB');
  }

  function rate(run) {
    const perSecond = run.rate_per_second;
    if (!perSecond) return '—';
    return perSecond >= 1 ? `${perSecond.toFixed(1)}/s` : `${(perSecond * 60).toFixed(1)}/min`;
  }

  function subject(run) {
    return [run.source, run.destination].filter(Boolean).join(' → ') || run.project || '';
  }

  function wait(entry) {
    const kinds = {
      retry: entry.count === 1 ? '1 item waits to be tried again' : `${number(entry.count)} items wait to be tried again`,
      pause: 'a worker waits',
      callback: entry.count === 1 ? '1 outcome waits for its receiver' : `${number(entry.count)} outcomes wait for their receiver`,
    };
    const cause = [entry.host && `for ${entry.host}`, entry.reason && `(${entry.reason})`].filter(Boolean).join(' ');
    return `${kinds[entry.kind] || entry.kind} ${cause} until ${time(entry.until)}`.replace('  ', ' ');
  }

  function badge(state) {
    const known = /^[a-z]+$/.test(state) ? state : 'unreadable';
    return element('span', state, `run-state run-state-${known}`);
  }

  function fillProgress(target, run) {
    const parts = STATES.filter(state => run[state] > 0).map(state => {
      const part = element('span', undefined, `bar-${state}`);
      part.style.width = `${100 * run[state] / Math.max(1, run.total)}%`;
      part.title = `${number(run[state])} ${state}`;
      return part;
    });
    target.replaceChildren(...parts);
    if (target.hasAttribute('role')) target.setAttribute('aria-valuenow', Math.floor(100 * run.done / Math.max(1, run.total)));
  }

  /* columns: [name, row => text or Node, 'end' for numbers] */
  function table(target, columns, rows, nothing) {
    if (!rows.length) { target.replaceChildren(element('p', nothing, 'nothing')); return; }
    const made = element('table', undefined, 'table workers-table align-middle');
    const head = made.createTHead().insertRow();
    columns.forEach(([name, , side]) => head.append(element('th', name, side === 'end' ? 'text-end' : '')));
    const body = made.createTBody();
    rows.forEach(row => fillRow(body.insertRow(), columns, row));
    target.replaceChildren(made);
  }

  function fillRow(line, columns, row) {
    columns.forEach(([name, read, side]) => {
      const cell = line.insertCell();
      cell.dataset.name = name;
      if (side === 'end') cell.className = 'text-end';
      const value = read(row);
      cell.append(value instanceof Node ? value : element('span', value));
    });
  }

  function link(address, text) {
    const made = element('a', text);
    made.href = address;
    return made;
  }

  async function request(address, options) {
    let answer;
    try {
      // not relative to the page: its address may hold a login, which fetch refuses
      answer = await fetch(new URL(address, location.origin), { credentials: 'same-origin', ...options });
    } catch {
      throw Object.assign(new Error('Flower does not answer'), { status: 0 });
    }
    let document_ = null;
    try { document_ = await answer.json(); } catch { /* a proxy's page */ }
    if (!answer.ok) {
      const told = document_ && document_.error ? document_.error.message : `Flower answers ${answer.status}`;
      throw Object.assign(new Error(told), { status: answer.status });
    }
    return document_;
  }

  function post(address, body) {
    return request(address, {
      method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body),
    });
  }

  function showProblem(text) {
    const box = document.getElementById('problem');
    box.textContent = text;
    box.classList.toggle('d-none', !text);
    document.getElementById('live-dot').className = `status-dot ${text ? 'status-dot-error' : 'status-dot-live'}`;
  }

  /* Call `look` again and again: it resolves to true where it lacks something, has said so and wants to be called soon. */
  function poll(look) {
    let timer = null, failures = 0, shownAt = null, running = false;
    async function step() {
      if (running) return;
      running = true;
      clearTimeout(timer);
      let pause = POLL_MS;
      try {
        const soon = await look();
        failures = 0;
        shownAt = Date.now() / 1000;
        showProblem('');
        if (!soon) document.getElementById('live-text').textContent = `Live, ${time(shownAt)}`;
        pause = soon ? BEHIND_MS : POLL_MS;
      } catch (error) {
        failures += 1;
        pause = Math.min(LONGEST_PAUSE_MS, POLL_MS * 2 ** Math.min(failures - 1, 3));
        const since = shownAt ? ` What is shown is of ${time(shownAt)}.` : '';
        document.getElementById('live-text').textContent = 'Not live';
        if (error.status === 404 || error.status === 400) {
          showProblem(`${error.message}.${since}`);
          pause = null;
        } else {
          showProblem(`${error.message}.${since} This page tries again by itself.`);
        }
      }
      running = false;
      if (pause !== null) timer = setTimeout(step, document.hidden ? Math.max(pause, 5 * POLL_MS) : pause);
    }
    document.addEventListener('visibilitychange', () => { if (!document.hidden && timer !== null) step(); });
    step();
    return step;
  }

  return { STATES, badge, bytes, duration, element, fillProgress, fillRow, link, moment, number, poll, post, rate, request,
    subject, table, time, wait };
})();
